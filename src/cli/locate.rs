//! Which cache a command means, when it was not told.

use std::path::{Path, PathBuf};

use super::CliError;
use crate::settings::{self, Settings};

/// Returns the folder of the cache: the option, VOLVELLE_CACHE, or that of the project around the pipeline.
pub(super) fn cache_folder(option: Option<&Path>, pipeline: Option<&Path>) -> Result<PathBuf, CliError> {
    if let Some(folder) = option {
        return Ok(folder.to_path_buf());
    }
    if let Some(folder) = std::env::var_os("VOLVELLE_CACHE").filter(|folder| !folder.is_empty()) {
        return Ok(folder.into());
    }
    let here = current_folder()?;
    let start = start_folder(&here, pipeline);
    let project = start.ancestors().find(|folder| is_project(folder));
    Ok(project.unwrap_or(&here).join("cache"))
}

/// Returns the settings of the project around a pipeline, or around the current folder.
pub(super) fn settings(pipeline: Option<&Path>) -> Result<Settings, CliError> {
    Ok(Settings::around(&start_folder(&current_folder()?, pipeline))?)
}

fn current_folder() -> Result<PathBuf, CliError> {
    std::env::current_dir()
        .map_err(|error| CliError::Usage(format!("the current folder can't be found ({error}); pass --cache DIR")))
}

fn start_folder(here: &Path, pipeline: Option<&Path>) -> PathBuf {
    match pipeline.and_then(Path::parent) {
        Some(folder) => here.join(folder),
        None => here.to_path_buf(),
    }
}

/// A folder named `cache` alone says nothing: it has to be one of ours, or lie beside what marks a project. The root of
/// the file system is none: a cache that was made there by mistake would be that of every pipeline on the machine.
fn is_project(folder: &Path) -> bool {
    if folder.parent().is_none() {
        return false;
    }
    ["cache/format", "Cargo.toml", ".git"]
        .iter()
        .any(|marker| folder.join(marker).exists())
        || settings::is_settings(&folder.join(settings::FILE_NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_project_around_the_pipeline_has_the_cache() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let pipelines = folder.path().join("a/pipelines");
        std::fs::create_dir_all(&pipelines)?;
        std::fs::write(folder.path().join("a/Cargo.toml"), "")?;
        let found = cache_folder(None, Some(&pipelines.join("p.yaml"))).ok();
        // The environment of the test run may name one; then that is what counts.
        if std::env::var_os("VOLVELLE_CACHE").is_none() {
            assert_eq!(found, Some(folder.path().join("a/cache")));
        }
        assert_eq!(cache_folder(Some(Path::new("x")), None).ok(), Some(PathBuf::from("x")));
        Ok(())
    }
}
