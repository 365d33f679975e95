//! Tells tests of every call before it is made and after it was answered, so that they can end the process
//! at any of them. Without the feature `fault-points` there is nothing.

#[cfg(feature = "fault-points")]
mod observed {
    use std::sync::OnceLock;

    static OBSERVER: OnceLock<fn(&str)> = OnceLock::new();

    /// Names `observer` as the one who is told; the first stays.
    pub fn observe(observer: fn(&str)) {
        let _ = OBSERVER.set(observer);
    }

    pub(crate) fn point(when: &str, method: &str) {
        if let Some(observer) = OBSERVER.get() {
            observer(&format!("{when} {method}"));
        }
    }
}

#[cfg(feature = "fault-points")]
pub use observed::observe;
#[cfg(feature = "fault-points")]
pub(crate) use observed::point;

#[cfg(not(feature = "fault-points"))]
pub(crate) fn point(_when: &str, _method: &str) {}
