//! From an address and the environment to an object store.
//!
//! It knows what each kind of store is called, how it is reached, and where its credentials come from; none of them is
//! kept, written or shown here. Nothing is asked of the store yet.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore};
use url::Url;

use super::aws_profile::{self, Environment, Profile};
use super::errors::Context;
use super::requests::{Bucket, Limits};
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
    let context = Context { address, kind };
    let prefix = Path::from_url_path(url.path()).map_err(|error| wrong(&error.to_string()))?;
    let bucket = || {
        url.host_str()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| wrong("it names no bucket"))
    };
    let (store, prefix): (Arc<dyn ObjectStore>, Path) = match kind {
        Kind::S3 => (s3(settings, bucket()?, limits, environment)?, prefix),
        Kind::Google => (google(settings, bucket()?, limits)?, prefix),
        Kind::Azure => (azure(settings, bucket()?, limits)?, prefix),
        _ => (folder(&url, &context)?, Path::default()),
    };
    Ok(Bucket {
        store,
        prefix,
        context,
        limits,
    })
}

/// Returns an address that may be shown although it is wrong.
fn without_secrets(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    match scheme {
        "" => rest.to_owned(),
        _ => format!("{scheme}://{rest}"),
    }
}

fn client_options(endpoint: Option<&str>) -> ClientOptions {
    ClientOptions::new().with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")))
}

fn built<T: ObjectStore>(built: object_store::Result<T>, bucket: &str) -> Result<Arc<dyn ObjectStore>, RemoteError> {
    match built {
        Ok(store) => Ok(Arc::new(store)),
        // What builders complain of is a setting; their messages name keys, not values.
        Err(error) => Err(RemoteError::Settings(format!("remote {bucket}: {error}"))),
    }
}

/// What object_store knows to do with; keys that name no setting of its are passed over.
const S3_VARIABLES: [&str; 16] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_METADATA_ENDPOINT",
    "AWS_IMDSV1_FALLBACK",
    "AWS_SKIP_SIGNATURE",
    "AWS_REQUEST_PAYER",
    "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_SSE_KMS_KEY_ID",
];

fn s3(
    settings: &RemoteSettings,
    bucket: &str,
    limits: Limits,
    environment: Environment<'_>,
) -> Result<Arc<dyn ObjectStore>, RemoteError> {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty());
    // What is in the environment comes before the files; who names a profile there means the files.
    let has_keys = set("AWS_ACCESS_KEY_ID").is_some() && set("AWS_SECRET_ACCESS_KEY").is_some();
    let has_other = set("AWS_WEB_IDENTITY_TOKEN_FILE").is_some()
        || set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").is_some()
        || set("AWS_CONTAINER_CREDENTIALS_FULL_URI").is_some();
    let profile = match has_keys {
        true => Profile::default(),
        false => aws_profile::read(environment)?,
    };
    let mut builder = AmazonS3Builder::new();
    for name in S3_VARIABLES {
        if let (Some(value), Ok(key)) = (set(name), name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>()) {
            builder = builder.with_config(key, value);
        }
    }
    let has_profile_keys = profile.key_id.is_some() && profile.secret.is_some();
    if !has_keys
        && !has_other
        && let (Some(key_id), Some(secret)) = (profile.key_id, profile.secret)
    {
        builder = builder.with_access_key_id(key_id).with_secret_access_key(secret);
        if let Some(token) = profile.token {
            builder = builder.with_token(token);
        }
    }
    let endpoint = (settings.endpoint.clone())
        .or_else(|| set("AWS_ENDPOINT_URL_S3"))
        .or_else(|| set("AWS_ENDPOINT_URL"))
        .or_else(|| set("AWS_ENDPOINT"))
        .or(profile.endpoint);
    let region = (settings.region.clone())
        .or_else(|| set("AWS_REGION"))
        .or_else(|| set("AWS_DEFAULT_REGION"))
        .or(profile.region);
    if let Some(region) = region {
        builder = builder.with_region(region);
    }
    // Only Amazon's own machines have a service that hands out credentials, and asking for it elsewhere takes long.
    let no_service = endpoint.is_some() || set("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value == "true");
    if no_service && !has_keys && !has_other && !has_profile_keys && set("AWS_SKIP_SIGNATURE").is_none() {
        return Err(RemoteError::Denied {
            what: format!("{}: no credentials were found", settings.url),
            hint: Kind::S3.hint().to_owned(),
        });
    }
    let path_style = settings.path_style.unwrap_or(endpoint.is_some());
    builder = builder
        .with_client_options(client_options(endpoint.as_deref()))
        .with_virtual_hosted_style_request(!path_style);
    if let Some(endpoint) = endpoint {
        let endpoint = hosted(&endpoint, bucket, path_style)?;
        builder = builder.with_endpoint(endpoint);
    }
    let builder = builder
        .with_bucket_name(bucket)
        .with_retry(limits.retries())
        .with_http_connector(Connector(limits));
    built(builder.build(), bucket)
}

/// Returns the endpoint as object_store wants it, which is with the bucket where that is part of the host name.
fn hosted(endpoint: &str, bucket: &str, path_style: bool) -> Result<String, RemoteError> {
    let wrong = || {
        RemoteError::Settings(format!(
            "remote.endpoint {:?} is no http(s) address",
            without_secrets(endpoint)
        ))
    };
    let url = Url::parse(endpoint).map_err(|_| wrong())?;
    let host = url
        .host_str()
        .filter(|_| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(wrong)?;
    if path_style {
        return Ok(endpoint.trim_end_matches('/').to_owned());
    }
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Ok(format!("{}://{bucket}.{host}{port}", url.scheme()))
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

    #[test]
    fn a_bucket_goes_into_the_host_unless_paths_are_wanted() {
        let host = hosted("https://s3.example.org:9000/", "b", false).expect("an address");
        assert_eq!(host, "https://b.s3.example.org:9000");
        let path = hosted("http://127.0.0.1:9000/", "b", true).expect("an address");
        assert_eq!(path, "http://127.0.0.1:9000");
        assert!(hosted("127.0.0.1:9000", "b", true).is_err());
    }
}
