//! Records over HTTP: read as the files that they are, and written once they and all their blobs are good.

use std::fs;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use super::body::Incoming;
use super::refusal::Refusal;
use super::routes::{Name, blocking, query};
use super::shared::Shared;
use crate::digest::RecipeKey;
use crate::remote::http::protocol::MOST_RECORD_BYTES;
use crate::store::Admitted;

const CONTENT_TYPE: &str = "application/vnd.volvelle.record";

/// `GET /v1/records/KEY`, by recipe or content key.
pub(super) async fn get(State(shared): State<Arc<Shared>>, Name(key): Name) -> Result<Response, Refusal> {
    let bytes = blocking(move || Ok(fs::read(shared.store.record_path(key))?)).await?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], bytes).into_response())
}

/// `PUT /v1/records/RECIPE[?replace=1]`: 201 with nothing, or 200 with the record that was there and stays.
pub(super) async fn put(
    State(shared): State<Arc<Shared>>,
    Name(recipe): Name,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let [replace] = query(&uri, ["replace"])?;
    let replace = match replace {
        None | Some("0") => false,
        Some("1" | "") => true,
        Some(_) => return Err(Refusal::bad("replace is 0 or 1")),
    };
    let _slot = shared.upload_slot().await?;
    let bytes = Incoming::new(&headers, body, MOST_RECORD_BYTES, shared.pace)?
        .whole()
        .await?;
    let _room = shared.reserve(bytes.len() as u64)?;
    let store = Arc::clone(&shared.store);
    let admitted = blocking(move || Ok(store.admit_record(RecipeKey(recipe), &bytes, replace)?)).await?;
    Ok(match admitted {
        Admitted::Stored => StatusCode::CREATED.into_response(),
        Admitted::Exists(bytes) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], bytes).into_response(),
    })
}
