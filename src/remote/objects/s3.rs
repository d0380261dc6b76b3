//! S3 servers, Amazon's and others: where they are, and by which key they are asked.
//!
//! The usual chain: keys in the environment, a token file or a container's service that the environment names, the files of
//! the AWS tools, and on Amazon's machines the service that hands out credentials.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use url::Url;

use super::address::{Kind, built, client_options, without_secrets};
use super::aws_profile::{self, Environment, Profile};
use super::requests::Limits;
use super::transport::Connector;
use crate::remote::RemoteError;
use crate::settings::RemoteSettings;

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

/// Where the credentials come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// Keys in the environment.
    Keys,
    /// Something else that the environment names.
    Service,
    /// The files of the AWS tools.
    Files,
    /// What Amazon's machines have.
    Machine,
}

/// The store of a bucket, and the endpoint if it is not Amazon's.
type Opened = (Arc<dyn ObjectStore>, Option<Arc<str>>);

/// Opens a bucket, without asking it anything.
pub(super) fn open(
    settings: &RemoteSettings,
    bucket: &str,
    limits: Limits,
    environment: Environment<'_>,
) -> Result<Opened, RemoteError> {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty());
    let (source, profile) = source(&set, environment)?;
    let endpoint = (settings.endpoint.clone())
        .or_else(|| set("AWS_ENDPOINT_URL_S3"))
        .or_else(|| set("AWS_ENDPOINT_URL"))
        .or_else(|| set("AWS_ENDPOINT"))
        .or_else(|| profile.endpoint.clone());
    // Only Amazon's own machines have a service that hands out credentials, and asking for it elsewhere takes long.
    let no_service = endpoint.is_some() || set("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value == "true");
    if no_service && source == Source::Machine && set("AWS_SKIP_SIGNATURE").is_none() {
        return Err(RemoteError::Denied {
            what: format!("{}: no credentials were found", settings.url),
            hint: Kind::S3.hint().to_owned(),
        });
    }
    let path_style = settings.path_style.unwrap_or(endpoint.is_some());
    let mut builder = builder(&set, source, profile, settings.region.clone())
        .with_client_options(client_options(endpoint.as_deref()))
        .with_virtual_hosted_style_request(!path_style)
        .with_bucket_name(bucket)
        .with_retry(limits.retries())
        .with_http_connector(Connector(limits));
    if let Some(endpoint) = &endpoint {
        builder = builder.with_endpoint(hosted(endpoint, bucket, path_style)?);
    }
    let shown = endpoint.as_deref().map(|endpoint| without_secrets(endpoint).into());
    Ok((built(builder.build(), bucket)?, shown))
}

fn source(set: Environment<'_>, environment: Environment<'_>) -> Result<(Source, Profile), RemoteError> {
    if set("AWS_ACCESS_KEY_ID").is_some() && set("AWS_SECRET_ACCESS_KEY").is_some() {
        return Ok((Source::Keys, Profile::default()));
    }
    let profile = aws_profile::read(environment)?;
    let is_service = set("AWS_WEB_IDENTITY_TOKEN_FILE").is_some()
        || set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").is_some()
        || set("AWS_CONTAINER_CREDENTIALS_FULL_URI").is_some();
    let source = match (is_service, profile.key_id.is_some() && profile.secret.is_some()) {
        (true, _) => Source::Service,
        (false, true) => Source::Files,
        (false, false) => Source::Machine,
    };
    Ok((source, profile))
}

fn builder(set: Environment<'_>, source: Source, profile: Profile, region: Option<String>) -> AmazonS3Builder {
    let mut builder = AmazonS3Builder::new();
    for name in S3_VARIABLES {
        if let (Some(value), Ok(key)) = (set(name), name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>()) {
            builder = builder.with_config(key, value);
        }
    }
    if let (Source::Files, Some(key_id), Some(secret)) = (source, profile.key_id, profile.secret) {
        builder = builder.with_access_key_id(key_id).with_secret_access_key(secret);
        if let Some(token) = profile.token {
            builder = builder.with_token(token);
        }
    }
    let region = region
        .or_else(|| set("AWS_REGION"))
        .or_else(|| set("AWS_DEFAULT_REGION"))
        .or(profile.region);
    match region {
        Some(region) => builder.with_region(region),
        None => builder,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_goes_into_the_host_unless_paths_are_wanted() {
        let host = hosted("https://s3.example.org:9000/", "b", false).expect("an address");
        assert_eq!(host, "https://b.s3.example.org:9000");
        let path = hosted("http://127.0.0.1:9000/", "b", true).expect("an address");
        assert_eq!(path, "http://127.0.0.1:9000");
        assert!(hosted("127.0.0.1:9000", "b", true).is_err());
    }
}
