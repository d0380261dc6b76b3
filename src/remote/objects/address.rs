//! From an address and the environment to an object store.
//!
//! It knows what each kind of store is called, how it is reached, and where its credentials come from; none of them is
//! kept, written or shown here. Nothing is asked of the store yet.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore};
use url::Url;

use super::aws_profile::Environment;
use super::errors::Context;
use super::requests::{Bucket, Limits};
use super::s3;
use super::transport::Connector;
use crate::remote::RemoteError;
use crate::settings::RemoteSettings;

/// What kind of store it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    S3,
    Google,
    Azure,
    File,
    /// One that a test made.
    #[cfg(test)]
    Memory,
}

impl Kind {
    /// Says what to look at when access is denied.
    pub(super) fn hint(self) -> &'static str {
        match self {
            Kind::S3 => {
                "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, and what that key may do in the bucket"
            }
            Kind::Google => "check GOOGLE_APPLICATION_CREDENTIALS and what that account may do in the bucket",
            Kind::Azure => {
                "check AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, and what the key may do in the container"
            }
            Kind::File => "check the permissions of the folder",
            #[cfg(test)]
            Kind::Memory => "it is a test",
        }
    }

    pub(super) fn container(self) -> &'static str {
        match self {
            Kind::Azure => "container",
            Kind::File => "folder",
            _ => "bucket",
        }
    }
}

/// Returns the place that some settings name.
pub(super) fn open(settings: &RemoteSettings, limits: Limits) -> Result<Bucket, RemoteError> {
    open_with(settings, limits, &|name| std::env::var(name).ok())
}

fn open_with(settings: &RemoteSettings, limits: Limits, environment: Environment<'_>) -> Result<Bucket, RemoteError> {
    let wrong = |why: &str| RemoteError::Settings(format!("remote.url {:?}: {why}", without_secrets(&settings.url)));
    let url = Url::parse(&settings.url).map_err(|error| wrong(&error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong(
            "credentials and options do not belong into the address; see the environment variables of the store",
        ));
    }
    let kind = match url.scheme() {
        "s3" | "s3a" => Kind::S3,
        "gs" => Kind::Google,
        "az" | "azure" => Kind::Azure,
        "file" => Kind::File,
        other => return Err(wrong(&format!("`{other}` is none of s3, gs, az, file, http and https"))),
    };
    let address: Arc<str> = settings.url.trim_end_matches('/').into();
    let mut context = Context {
        address,
        kind,
        endpoint: None,
    };
    let prefix = Path::from_url_path(url.path()).map_err(|error| wrong(&error.to_string()))?;
    let bucket = || {
        url.host_str()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| wrong("it names no bucket"))
    };
    let (store, prefix): (Arc<dyn ObjectStore>, Path) = match kind {
        Kind::S3 => {
            let (store, endpoint) = s3::open(settings, bucket()?, limits, environment)?;
            context.endpoint = endpoint;
            (store, prefix)
        }
        Kind::Google => (google(settings, bucket()?, limits)?, prefix),
        Kind::Azure => (azure(settings, bucket()?, limits)?, prefix),
        _ => (folder(&url, &context)?, Path::default()),
    };
    if matches!(kind, Kind::Google | Kind::Azure) {
        context.endpoint = settings
            .endpoint
            .as_deref()
            .map(|endpoint| without_secrets(endpoint).into());
    }
    Ok(Bucket {
        store,
        prefix,
        context,
        limits,
    })
}

/// Returns an address that may be shown although it is wrong.
pub(super) fn without_secrets(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    match scheme {
        "" => rest.to_owned(),
        _ => format!("{scheme}://{rest}"),
    }
}

pub(super) fn client_options(endpoint: Option<&str>) -> ClientOptions {
    ClientOptions::new().with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")))
}

pub(super) fn built<T: ObjectStore>(
    built: object_store::Result<T>,
    bucket: &str,
) -> Result<Arc<dyn ObjectStore>, RemoteError> {
    match built {
        Ok(store) => Ok(Arc::new(store)),
        // What builders complain of is a setting; their messages name keys, not values.
        Err(error) => Err(RemoteError::Settings(format!("remote {bucket}: {error}"))),
    }
}

fn google(settings: &RemoteSettings, bucket: &str, limits: Limits) -> Result<Arc<dyn ObjectStore>, RemoteError> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(bucket)
        .with_client_options(client_options(settings.endpoint.as_deref()))
        .with_retry(limits.retries())
        .with_http_connector(Connector(limits));
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    built(builder.build(), bucket)
}

fn azure(settings: &RemoteSettings, container: &str, limits: Limits) -> Result<Arc<dyn ObjectStore>, RemoteError> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(container)
        .with_client_options(client_options(settings.endpoint.as_deref()))
        .with_retry(limits.retries())
        .with_http_connector(Connector(limits));
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    built(builder.build(), container)
}

fn folder(url: &Url, context: &Context) -> Result<Arc<dyn ObjectStore>, RemoteError> {
    let path: PathBuf = url.to_file_path().map_err(|()| {
        RemoteError::Settings(format!(
            "{}: it has to be file:///FOLDER, with the whole path of a folder of this machine",
            context.address
        ))
    })?;
    let opened = std::fs::create_dir_all(&path)
        .map_err(|source| object_store::Error::Generic {
            store: "folder",
            source: Box::new(source),
        })
        .and_then(|()| LocalFileSystem::new_with_prefix(&path));
    match opened {
        // Flushed, file and folder, before it counts: others rely on what is there.
        Ok(store) => Ok(Arc::new(store.with_fsync(true))),
        Err(error) => Err(context.fault(&Path::default(), error)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(url: &str) -> Result<Bucket, String> {
        let limits = Limits {
            small: Duration::from_secs(1),
        };
        open_with(&RemoteSettings::at(url), limits, &|_| None).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_no_address_is_told_without_its_secrets() {
        for (url, said) in [
            ("s3://", "no bucket"),
            ("ftp://b", "none of s3"),
            ("b/p", "relative URL"),
            ("file://server/share", "file:///FOLDER"),
            ("s3://key:CANARY@b/p", "do not belong"),
            ("az://c/p?sig=CANARY", "do not belong"),
        ] {
            let error = at(url).expect_err(url);
            assert!(error.contains(said), "{error}");
            assert!(!error.contains("CANARY"), "{error}");
        }
    }

    #[test]
    fn a_folder_with_spaces_is_made() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let inside = folder.path().join("a b/c%20d");
        let url = Url::from_file_path(&inside).expect("an absolute path");
        at(url.as_str()).expect("a folder");
        assert!(inside.is_dir());
    }
}
