//! Filesystems of their own for a test: small ones, ones whose power fails, ones that can't be written. They need root
//! and loop devices; whoever can't have one says so and skips.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// A mounted filesystem; it is unmounted with the value.
pub struct Mounted {
    folder: tempfile::TempDir,
    image: Option<PathBuf>,
    is_mounted: bool,
}

impl Mounted {
    /// Mounts a filesystem in memory, or says why that can't be.
    pub fn tmpfs(size: &str) -> Result<Mounted, String> {
        let mut mounted = Mounted::new(None)?;
        mounted.mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "volvelle-test"])?;
        Ok(mounted)
    }

    /// Makes a filesystem in a file and mounts it, or says why that can't be.
    pub fn image(kind: &str, size_bytes: u64) -> Result<Mounted, String> {
        let mut mounted = Mounted::new(Some("image"))?;
        let image = mounted.image.clone().unwrap_or_default();
        let file = File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(size_bytes).map_err(|error| error.to_string())?;
        say(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image))?;
        mounted.mount_image()?;
        Ok(mounted)
    }

    fn new(image: Option<&str>) -> Result<Mounted, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root may mount".to_owned());
        }
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        fs::create_dir(folder.path().join("mnt")).map_err(|error| error.to_string())?;
        Ok(Mounted {
            image: image.map(|name| folder.path().join(name)),
            folder,
            is_mounted: false,
        })
    }

    fn mount(&mut self, arguments: &[&str]) -> Result<(), String> {
        say(Command::new("mount").args(arguments).arg(self.path()))?;
        self.is_mounted = true;
        Ok(())
    }

    /// Mounts the image, which brings its journal to an end as after a power cut.
    pub fn mount_image(&mut self) -> Result<(), String> {
        let image = self.image.clone().unwrap_or_default();
        self.mount(&["-o", "loop", &image.to_string_lossy()])
    }

    /// Unmounts, as soon as nothing uses it any more.
    pub fn unmount(&mut self) {
        let start = Instant::now();
        while self.is_mounted {
            match say(Command::new("umount").arg(self.path())) {
                Ok(()) => self.is_mounted = false,
                Err(error) => assert!(start.elapsed() < Duration::from_secs(30), "{error}"),
            }
            if self.is_mounted {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Makes the filesystem unwritable, or writable again.
    pub fn remount(&self, how: &str) -> Result<(), String> {
        say(Command::new("mount")
            .args(["-o", &format!("remount,{how}")])
            .arg(self.path()))
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// Cuts the power: what was not flushed is lost, and nothing can be written any more.
    pub fn shut_down(&self) {
        // `_IOR('X', 125, __u32)`, which ext4, xfs and f2fs have.
        const SHUTDOWN: libc::c_ulong = 0x8004_587d;
        const WITHOUT_FLUSHING_THE_LOG: u32 = 2;
        let root = File::open(self.path()).expect("the filesystem is mounted");
        let how = WITHOUT_FLUSHING_THE_LOG;
        // SAFETY: the descriptor is open, and the argument points to the number that this request reads.
        let answer = unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN as _, &raw const how) };
        assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.is_mounted {
            // Whatever still uses it, the test is over.
            let _ = say(Command::new("umount").arg("-l").arg(self.path()));
        }
    }
}

/// Runs a tool; what it said is the error.
fn say(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{name}: {error}")),
    }
}
