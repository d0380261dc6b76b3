//! The two files in which the AWS tools keep profiles, which object_store does not read.
//!
//! It knows keys that stand in the files. Profiles that name another way to get credentials (SSO, a program, a role to
//! assume) are told as such; the AWS command line turns them into environment variables.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use crate::remote::RemoteError;

/// What a profile sets.
#[derive(Default)]
pub(super) struct Profile {
    pub(super) key_id: Option<String>,
    pub(super) secret: Option<String>,
    pub(super) token: Option<String>,
    pub(super) region: Option<String>,
    pub(super) endpoint: Option<String>,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nothing of it: a debug line is a log line.
        f.write_str("Profile")
    }
}

/// What looks up an environment variable; a parameter so that tests need not change the process.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads the profile that the environment names, or the default one.
///
/// # Errors
/// A profile was named and is in neither file, or has credentials in a way that is not supported.
pub(super) fn read(environment: Environment<'_>) -> Result<Profile, RemoteError> {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty());
    let named = set("AWS_PROFILE").or_else(|| set("AWS_DEFAULT_PROFILE"));
    let name = named.as_deref().unwrap_or("default");
    let home = set("HOME").map(PathBuf::from).unwrap_or_default();
    let file = |variable: &str, default: &str| {
        let path = set(variable).map_or_else(|| home.join(".aws").join(default), PathBuf::from);
        std::fs::read_to_string(path).unwrap_or_default()
    };
    let credentials = section(&file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), &[name]);
    let with_prefix = format!("profile {name}");
    let mut names = vec![with_prefix.as_str()];
    if name == "default" {
        names.push("default");
    }
    let config = section(&file("AWS_CONFIG_FILE", "config"), &names);
    if named.is_some() && credentials.is_none() && config.is_none() {
        return Err(RemoteError::Settings(format!(
            "the AWS profile `{name}` is in neither ~/.aws/credentials nor ~/.aws/config"
        )));
    }
    profile(
        name,
        credentials.unwrap_or_default(),
        config.unwrap_or_default(),
        named.is_some(),
    )
}

fn profile(
    name: &str,
    mut credentials: HashMap<String, String>,
    mut config: HashMap<String, String>,
    was_named: bool,
) -> Result<Profile, RemoteError> {
    let mut take = |key: &str| credentials.remove(key).or_else(|| config.remove(key));
    let found = Profile {
        key_id: take("aws_access_key_id"),
        secret: take("aws_secret_access_key"),
        token: take("aws_session_token"),
        region: take("region"),
        endpoint: take("endpoint_url"),
    };
    let other = ["sso_session", "sso_start_url", "credential_process", "role_arn"]
        .into_iter()
        .find(|key| credentials.contains_key(*key) || config.contains_key(*key));
    match other {
        Some(key) if was_named && found.key_id.is_none() => Err(RemoteError::Settings(format!(
            "the AWS profile `{name}` gets its credentials by `{key}`, which is not supported; \
             run `eval \"$(aws configure export-credentials --profile {name} --format env)\"` first"
        ))),
        _ => Ok(found),
    }
}

/// Returns the settings of the first of some sections that a file has.
fn section(text: &str, names: &[&str]) -> Option<HashMap<String, String>> {
    let mut found: Option<HashMap<String, String>> = None;
    let mut is_inside = false;
    for line in text.lines() {
        // Indented lines belong to a nested setting, such as `s3 =`.
        let is_nested = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
            is_inside = names.contains(&name.as_str());
            if is_inside {
                found.get_or_insert_default();
            }
            continue;
        }
        if let (true, false, Some((key, value)), Some(found)) = (is_inside, is_nested, line.split_once('='), &mut found)
        {
            let value = value.trim().split(" #").next().unwrap_or_default().trim();
            found.insert(key.trim().to_ascii_lowercase(), value.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_files(credentials: &str, config: &str, profile: Option<&str>) -> Result<Profile, RemoteError> {
        let folder = tempfile::tempdir().map_err(|error| RemoteError::Settings(error.to_string()))?;
        let path = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("a file in a temporary folder");
            path.to_string_lossy().into_owned()
        };
        let credentials = path("credentials", credentials);
        let config = path("config", config);
        read(&|name: &str| match name {
            "AWS_SHARED_CREDENTIALS_FILE" => Some(credentials.clone()),
            "AWS_CONFIG_FILE" => Some(config.clone()),
            "AWS_PROFILE" => profile.map(str::to_owned),
            _ => None,
        })
    }

    const CREDENTIALS: &str = "# ours\n[default]\naws_access_key_id = A1\naws_secret_access_key=s/1+=\n\n\
                               [team]\nAWS_ACCESS_KEY_ID=A2\naws_secret_access_key = s2\naws_session_token = t2\n";

    #[test]
    fn keys_come_from_credentials_and_the_region_from_config() {
        let config = "[default]\nregion = eu-west-1\ns3 =\n  region = not-this\n[profile team]\nregion=us-east-2 # home\n\
                      endpoint_url = http://127.0.0.1:9\n";
        let profile = with_files(CREDENTIALS, config, None).expect("a profile");
        assert_eq!(profile.key_id.as_deref(), Some("A1"));
        assert_eq!(profile.secret.as_deref(), Some("s/1+="));
        assert_eq!(profile.region.as_deref(), Some("eu-west-1"));
        let profile = with_files(CREDENTIALS, config, Some("team")).expect("a profile");
        assert_eq!(profile.key_id.as_deref(), Some("A2"));
        assert_eq!(profile.token.as_deref(), Some("t2"));
        assert_eq!(profile.region.as_deref(), Some("us-east-2"));
        assert_eq!(profile.endpoint.as_deref(), Some("http://127.0.0.1:9"));
        assert!(!format!("{profile:?}").contains("s2"));
    }

    #[test]
    fn what_is_missing_or_not_supported_is_told() {
        let error = with_files(CREDENTIALS, "", Some("nobody")).expect_err("no such profile");
        assert!(error.to_string().contains("nobody"), "{error}");
        let error = with_files("", "[profile sso]\nsso_session = x\n", Some("sso")).expect_err("SSO");
        assert!(error.to_string().contains("export-credentials"), "{error}");
        assert!(
            with_files("", "", None)
                .expect("nothing at all is fine")
                .key_id
                .is_none()
        );
    }
}
