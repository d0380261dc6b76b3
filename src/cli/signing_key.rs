//! The file with the key that a user signs records with. Nothing of it is ever printed but the public half.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::CliError;
use crate::digest::Digest;
use crate::store::SigningKey;

const VARIABLE: &str = "VOLVELLE_SIGNING_KEY";
const FIRST_LINE: &str = "volvelle signing key 1";

/// Returns where the key lies: VOLVELLE_SIGNING_KEY, else in the user's folder of settings.
pub(super) fn path() -> Result<PathBuf, CliError> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = variable(VARIABLE) {
        return Ok(path.into());
    }
    let folder = variable("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&variable("HOME")?).join(".config")));
    let folder =
        folder.ok_or_else(|| CliError::Usage(format!("there is no HOME; say with {VARIABLE} where the key is")))?;
    Ok(folder.join("volvelle/signing.key"))
}

/// Returns the user's key; none if there is no file of it. One that is named by the environment has to be there.
pub(super) fn read() -> Result<Option<SigningKey>, CliError> {
    // Where nothing says where it would be, there is none.
    let Ok(path) = path() else { return Ok(None) };
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_named() => Ok(None),
        Err(error) => Err(CliError::Usage(format!(
            "cannot read the signing key {}: {error}",
            path.display()
        ))),
        Ok(text) => parse(&path, &text).map(Some),
    }
}

/// Returns whether the environment names a key.
fn is_named() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|value| !value.is_empty())
}

fn parse(path: &Path, text: &str) -> Result<SigningKey, CliError> {
    let wrong = |why: &str| CliError::Usage(format!("the signing key {} {why}", path.display()));
    let mode = fs::metadata(path).map_or(0, |metadata| metadata.mode());
    if mode & 0o077 != 0 {
        return Err(wrong(
            "can be read by others; run `chmod 600` on it, and if others had access make a new one",
        ));
    }
    let mut lines = text.lines();
    if lines.next() != Some(FIRST_LINE) {
        return Err(wrong("is not one of volvelle: `volvelle key new` makes one"));
    }
    let secret: Option<Digest> = lines.next().and_then(|line| line.parse().ok());
    let secret = secret.ok_or_else(|| wrong("is damaged: its second line should have 64 hexadecimal digits"))?;
    Ok(SigningKey::from_secret(&secret.0))
}

/// Makes a new key and writes it; never over another one.
pub(super) fn create(path: &Path) -> Result<SigningKey, CliError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)
        .map_err(|error| CliError::Usage(format!("the system has no random numbers for a key: {error}")))?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(CliError::writing(folder))?;
    }
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let mut file = match file {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(CliError::Usage(format!(
                "{} is there already; what it signed would not count any more without it, so move it away by hand",
                path.display()
            )));
        }
        file => file.map_err(CliError::writing(path))?,
    };
    let text = format!("{FIRST_LINE}\n{}\n", Digest(secret));
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(CliError::writing(path))?;
    Ok(SigningKey::from_secret(&secret))
}
