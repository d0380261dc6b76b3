//! The date that a template may ask for (`strftime_now`).

use std::ffi::CString;
use std::time::{SystemTime, UNIX_EPOCH};

/// What `strftime_now` tells.
#[derive(Debug, Clone, Copy, Default)]
pub enum Clock {
    /// Always the start of 26 July 2024, the day that Llama 3's own template falls back to where there is no clock. A
    /// stage must give the same bytes on another day.
    #[default]
    Fixed,
    /// The local time now.
    System,
}

/// Start of 26 July 2024, UTC.
const FIXED_SECONDS: libc::time_t = 1_721_952_000;

impl Clock {
    /// Returns Python's `datetime.now().strftime(format)`, or what is wrong with the format.
    pub fn format(self, format: &str) -> Result<String, String> {
        /// Longer dates are no dates.
        const MAX_BYTES: usize = 4096;

        // An empty result can't be told from one that is too long; one more byte makes the difference.
        let pattern = CString::new(format!("{format}|")).map_err(|_| "a null character in a date format".to_owned())?;
        let time = self.broken_down();
        let mut buffer = vec![0_u8; MAX_BYTES];
        // SAFETY: the buffer has the length that is given, the pattern ends with a null character, and `time` is a whole
        // `tm`.
        let len = unsafe {
            libc::strftime(
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                pattern.as_ptr(),
                &raw const time,
            )
        };
        buffer.truncate(len);
        let text = String::from_utf8_lossy(&buffer);
        text.strip_suffix('|')
            .map(str::to_owned)
            .ok_or_else(|| format!("a date of more than {MAX_BYTES} bytes"))
    }

    fn broken_down(self) -> libc::tm {
        let mut seconds = FIXED_SECONDS;
        if let Self::System = self {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            seconds = libc::time_t::try_from(now.as_secs()).unwrap_or(libc::time_t::MAX);
        }
        // SAFETY: a zeroed `tm` is a valid one: numbers and a null pointer.
        let mut time = unsafe { std::mem::zeroed::<libc::tm>() };
        // SAFETY: both pointers are valid for the call, and neither function keeps them.
        unsafe {
            match self {
                Self::Fixed => libc::gmtime_r(&raw const seconds, &raw mut time),
                Self::System => libc::localtime_r(&raw const seconds, &raw mut time),
            }
        };
        time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fixed_day_is_that_of_llama() {
        assert_eq!(Clock::Fixed.format("%d %b %Y").as_deref(), Ok("26 Jul 2024"));
        assert_eq!(Clock::Fixed.format("").as_deref(), Ok(""));
        assert_eq!(
            Clock::Fixed.format("%A, %Y-%m-%d %H:%M").as_deref(),
            Ok("Friday, 2024-07-26 00:00")
        );
        assert!(Clock::Fixed.format(&"%Y".repeat(3000)).is_err());
        assert!(Clock::Fixed.format("a\0b").is_err());
    }
}
