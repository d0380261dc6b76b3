//! The one place that chooses the TLS library, for everything that speaks HTTPS.

use std::sync::Once;

/// Chooses ring for all TLS of this process; has to be called before the first client or server is made.
pub fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // It fails only where somebody else in this process has chosen already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
