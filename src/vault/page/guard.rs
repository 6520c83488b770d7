//! What a browser may do with what comes from here, as response headers.

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::Response,
};

/// Our own pages: our style sheet, our forms, our frames, nothing else; nobody frames us.
const PAGE: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-src 'self'; \
    base-uri 'none'; frame-ancestors 'none'";

/// A message's own HTML: a unique origin without script, forms, plugins or navigation of its parent, and nothing from the
/// network. Styles inside it and pictures that it brings are all that is left.
pub(super) const MESSAGE: &str = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; \
    form-action 'none'; base-uri 'none'; frame-ancestors 'self'";

/// Puts the policy of our own pages where a response has none of its own.
pub(super) async fn page(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let mut put = |name: HeaderName, value: &'static str| {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    };
    put(header::CONTENT_SECURITY_POLICY, PAGE);
    put(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    put(header::REFERRER_POLICY, "no-referrer");
    put(header::CACHE_CONTROL, "no-store");
    put(header::X_FRAME_OPTIONS, "DENY");
    // A frame's link must not even be resolved.
    put(header::X_DNS_PREFETCH_CONTROL, "off");
    put(
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    );
    put(
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    );
    response
}
