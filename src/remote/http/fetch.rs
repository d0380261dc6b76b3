//! Bringing content: the manifest first, then what of it is asked for and not here, each blob checked on arrival.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use reqwest::{Method, Response, StatusCode};

use super::protocol::{BATCH_TYPE, SIZE_HEADER, SMALL_BLOB_BYTES, take_frame};
use super::wire::{ATTEMPTS, pause};
use super::{Http, blocking, groups};
use crate::digest::Digest;
use crate::remote::{Content, Meter, Moved, RemoteError, listing};
use crate::store::{Artifact, Incoming, Manifest, Store, StoreError};

/// How much one request brings of small blobs: what is lost when it breaks off.
const GROUP_BYTES: u64 = 4 << 20;

/// How many small blobs one request brings.
const GROUP_BLOBS: usize = 1000;

/// No folder has a longer manifest: it is read as a whole.
const MOST_MANIFEST_BYTES: u64 = 512 << 20;

/// How much is gathered before it is written.
const WRITE_BYTES: usize = 512 << 10;

impl Http {
    pub(super) async fn fetch_content(
        &self,
        store: &Arc<Store>,
        content: Content,
        subpath: Option<&str>,
        meter: &Meter,
    ) -> Result<Moved, RemoteError> {
        let Some(manifest_blob) = content.manifest else {
            return match subpath {
                Some(subpath) => Err(RemoteError::Store(StoreError::NoSubpath {
                    subpath: subpath.to_owned(),
                    has: Vec::new(),
                })),
                None => self.bring_blob(store, content.digest, u64::MAX, meter).await,
            };
        };
        let mut moved = self
            .bring_blob(store, manifest_blob, MOST_MANIFEST_BYTES, meter)
            .await?;
        let manifest = match manifest_of(store, content).await {
            Ok(manifest) => manifest,
            // It was here and damaged, and was moved aside when it was read.
            Err(StoreError::MissingBlob { .. }) => {
                moved += self
                    .bring_blob(store, manifest_blob, MOST_MANIFEST_BYTES, meter)
                    .await?;
                manifest_of(store, content).await?
            }
            Err(error @ StoreError::BadManifest { .. }) => return Err(damaged(content.digest, &error.to_string())),
            Err(error) => return Err(error.into()),
        };
        let wanted = listing::of_manifest(manifest, subpath)?;
        let asked = Arc::clone(store);
        let (here, absent) = blocking(move || {
            Ok(wanted
                .into_iter()
                .partition::<Vec<_>, _>(|(digest, size)| asked.has_blob(*digest, *size)))
        })
        .await?;
        moved.spared_bytes += sum(&here);
        meter.expect(sum(&absent));
        let (small, large): (Vec<_>, Vec<_>) = absent.into_iter().partition(|(_, size)| *size <= SMALL_BLOB_BYTES);
        let mut transfers: Vec<BoxFuture<'_, _>> = Vec::new();
        for (digest, size) in large {
            transfers.push(Box::pin(self.bring_large(store, digest, Some(size), size, meter)));
        }
        for group in groups(&small, GROUP_BYTES, GROUP_BLOBS) {
            transfers.push(Box::pin(self.bring_group(store, group, meter)));
        }
        moved += self.all(transfers).await?;
        Ok(moved)
    }

    /// Brings a blob whose size may not be known.
    async fn bring_blob(
        &self,
        store: &Arc<Store>,
        digest: Digest,
        most: u64,
        meter: &Meter,
    ) -> Result<Moved, RemoteError> {
        if let Some(size) = store.blob_size(digest) {
            return Ok(Moved {
                wire_bytes: 0,
                spared_bytes: size,
            });
        }
        self.bring_large(store, digest, None, most, meter).await
    }

    /// Brings small blobs in one request, all durable together.
    async fn bring_group(
        &self,
        store: &Arc<Store>,
        group: Vec<(Digest, u64)>,
        meter: &Meter,
    ) -> Result<Moved, RemoteError> {
        let (mut attempt, mut was_damaged) = (0, false);
        let (blobs, wire_bytes) = loop {
            let error = match self.get_group(&group).await {
                Ok(got) => break got,
                Err(error) => error,
            };
            attempt += 1;
            let again = match &error {
                RemoteError::Unreachable { .. } => attempt < ATTEMPTS,
                // Something on the way may have been at fault, once.
                RemoteError::Damaged { .. } => !std::mem::replace(&mut was_damaged, true),
                _ => false,
            };
            if !again {
                if matches!(error, RemoteError::Damaged { .. }) {
                    let digests: Vec<Digest> = group.iter().map(|(digest, _)| *digest).collect();
                    self.doubt(&digests).await;
                }
                return Err(error);
            }
            tracing::debug!(%error, attempt, "asked again");
            pause(attempt, None).await;
        };
        let store = Arc::clone(store);
        blocking(move || store.admit_bytes(&blobs)).await?;
        meter.advance(sum(&group), wire_bytes);
        Ok(Moved {
            wire_bytes,
            spared_bytes: 0,
        })
    }

    /// Has the server look at blobs again whose bytes were wrong, so that what is damaged there can be sent again.
    async fn doubt(&self, digests: &[Digest]) {
        for digest in digests {
            let path = format!("v1/blobs/{digest}/check");
            // Only who may write can ask for it, and without it nothing is lost.
            if let Err(error) = self
                .wire
                .send("the check", || self.wire.request(Method::POST, &path))
                .await
            {
                tracing::debug!(%error, blob = %digest, "it is not checked there");
                return;
            }
        }
    }

    async fn get_group(&self, group: &[(Digest, u64)]) -> Result<(Vec<(Digest, Bytes)>, u64), RemoteError> {
        let what = format!("{} blobs", group.len());
        let digests: Vec<Digest> = group.iter().map(|(digest, _)| *digest).collect();
        let body = serde_json::to_vec(&digests).map_err(|error| RemoteError::Settings(error.to_string()))?;
        let request = || self.wire.request(Method::POST, "v1/batch/get").body(body.clone());
        let mut response = self.wire.send(&what, request).await?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if response.status() != StatusCode::OK || kind != Some(BATCH_TYPE) {
            return Err(self.wire.fault(&what, response).await);
        }
        let (mut come, mut blobs, mut wire_bytes) = (BytesMut::new(), Vec::new(), 0);
        while let Some(piece) = self.wire.piece(&what, &mut response).await? {
            wire_bytes += piece.len() as u64;
            come.extend_from_slice(&piece);
            while let Some((digest, bytes)) = take_frame(&mut come).map_err(|error| garbled(&what, &error))? {
                let Some(&(expected, size)) = group.get(blobs.len()) else {
                    return Err(damaged(digest, "it was not asked for"));
                };
                let bytes = bytes.ok_or_else(|| RemoteError::Absent {
                    what: format!("blob {}", expected.short()),
                })?;
                if digest != expected || bytes.len() as u64 != size || Digest::of(&bytes) != expected {
                    return Err(damaged(expected, "its bytes have another digest"));
                }
                blobs.push((expected, bytes));
            }
        }
        if blobs.len() < group.len() || !come.is_empty() {
            return Err(RemoteError::Unreachable {
                what: format!("{what} at {}", self.wire.address()),
                why: "the answer broke off".to_owned(),
            });
        }
        Ok((blobs, wire_bytes))
    }

    /// Brings a blob on its own, from where an earlier attempt broke off.
    async fn bring_large(
        &self,
        store: &Arc<Store>,
        digest: Digest,
        size: Option<u64>,
        most: u64,
        meter: &Meter,
    ) -> Result<Moved, RemoteError> {
        let mut receiving = Receiving {
            http: self,
            store,
            digest,
            what: format!("blob {}", digest.short()),
            size,
            most,
            place: None,
            counted: 0,
            wire_bytes: 0,
            meter,
        };
        // What an earlier attempt left may be wrong, and so may be what came just now; from the start once more.
        for is_last in [false, true] {
            let incoming = receiving.run().await?;
            let admitting = Arc::clone(store);
            match blocking(move || admitting.admit_incoming(vec![incoming])).await {
                Ok(()) => break,
                Err(StoreError::WrongBytes { .. }) if is_last => {
                    self.doubt(&[digest]).await;
                    return Err(damaged(digest, "its bytes have another digest"));
                }
                Err(StoreError::WrongBytes { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Moved {
            wire_bytes: receiving.wire_bytes,
            spared_bytes: 0,
        })
    }
}

/// A blob that is being received on its own.
struct Receiving<'a> {
    http: &'a Http,
    store: &'a Arc<Store>,
    digest: Digest,
    what: String,
    /// None until it is known.
    size: Option<u64>,
    /// No blob that is longer is taken.
    most: u64,
    place: Option<Place>,
    /// How much the meter was told of; it never counts anything twice.
    counted: u64,
    wire_bytes: u64,
    meter: &'a Meter,
}

impl Receiving<'_> {
    /// Receives all bytes, asked for again as often as each answer brings some; they are not checked yet.
    async fn run(&mut self) -> Result<Incoming, RemoteError> {
        let (mut attempt, mut broken) = (0, None);
        loop {
            if let Some(size) = self.size {
                // What lies here under the name of the blob may be another transfer's: only an open place is ours.
                let place = self.take_place(size).await?;
                if place.offset == size {
                    self.count(size);
                    return Ok(place.incoming);
                }
                self.place = Some(place);
            }
            let offset = match &self.place {
                Some(place) => place.offset,
                None => self.store.incoming_length(self.digest).unwrap_or(0),
            };
            if attempt == ATTEMPTS {
                return Err(broken.unwrap_or_else(|| damaged(self.digest, "the answers get no further")));
            }
            // Anything but progress is an attempt that failed, so that no answer keeps us here for ever.
            attempt += 1;
            let response = self.ask(offset).await?;
            let Some((size, start)) = self.part(response.status(), &response)? else {
                // What is here is longer than the blob.
                self.place = Some(self.take_place(self.size.unwrap_or(0)).await?.at(0));
                continue;
            };
            if self.size.is_none() {
                self.meter.expect(size);
                self.size = Some(size);
            }
            let place = self.take_place(size).await?;
            // What lies here may belong to another process by now, and then there is a place without a beginning.
            if !response.status().is_success() || start > place.offset {
                self.place = Some(place);
                continue;
            }
            let (place, ended) = self.write(response, place.at(start)).await?;
            if place.offset > start {
                attempt = 0;
            }
            self.count(place.offset);
            self.place = Some(place);
            if let Err(error) = ended {
                tracing::debug!(%error, attempt, "asked for the rest");
                broken = Some(error);
                pause(attempt, None).await;
            }
        }
    }

    async fn ask(&self, offset: u64) -> Result<Response, RemoteError> {
        let path = format!("v1/blobs/{}", self.digest);
        let request = || {
            let request = self.http.wire.request(Method::GET, &path);
            match offset {
                0 => request.header(ACCEPT_ENCODING, "zstd"),
                _ => request.header(RANGE, format!("bytes={offset}-")),
            }
        };
        let response = self.http.wire.send(&self.what, request).await?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
            _ => Err(self.http.wire.fault(&self.what, response).await),
        }
    }

    /// Returns the size of the blob and where the bytes of an answer begin; none if what is here can't be its beginning.
    fn part(&self, status: StatusCode, response: &Response) -> Result<Option<(u64, u64)>, RemoteError> {
        let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let range = text(CONTENT_RANGE.as_str()).and_then(|range| range.strip_prefix("bytes ")?.split_once('/'));
        let found = match status {
            StatusCode::OK => text(SIZE_HEADER).and_then(|size| Some((size.parse().ok()?, 0))),
            StatusCode::PARTIAL_CONTENT => range.and_then(|(part, size)| {
                let start = part.split_once('-')?.0.parse().ok()?;
                Some((size.parse().ok()?, start))
            }),
            // It has no such part: the size is all that it says.
            _ => range.and_then(|(_, size)| Some((size.parse().ok()?, 0))),
        };
        let Some((size, start)) = found else {
            return Err(damaged(self.digest, "the answer does not say how long it is"));
        };
        if size > self.most || self.size.is_some_and(|known| known != size) {
            return Err(damaged(self.digest, &format!("it has {size} bytes there")));
        }
        if status == StatusCode::RANGE_NOT_SATISFIABLE && self.size.is_some() {
            return Ok(None);
        }
        Ok(Some((size, start)))
    }

    async fn take_place(&mut self, size: u64) -> Result<Place, RemoteError> {
        match self.place.take() {
            Some(place) => Ok(place),
            None => Place::open(self.store, self.digest, size).await,
        }
    }

    /// Writes an answer at its place, and says how far it came and why not further.
    async fn write(
        &mut self,
        mut response: Response,
        place: Place,
    ) -> Result<(Place, Result<(), RemoteError>), RemoteError> {
        let coding = response
            .headers()
            .get(CONTENT_ENCODING)
            .and_then(|coding| coding.to_str().ok());
        let mut unpacking = match coding {
            None | Some("identity") => Unpacking::Plain(place),
            Some("zstd") => Unpacking::zstd(place).map_err(|error| damaged(self.digest, &error.to_string()))?,
            Some(_) => return Err(damaged(self.digest, "it has an encoding that was not asked for")),
        };
        let mut gathered = BytesMut::with_capacity(WRITE_BYTES);
        let ended = loop {
            let piece = self.http.wire.piece(&self.what, &mut response).await;
            if let Ok(Some(piece)) = &piece {
                self.wire_bytes += piece.len() as u64;
                self.meter.advance(0, piece.len() as u64);
                gathered.extend_from_slice(piece);
            }
            let is_last = !matches!(piece, Ok(Some(_)));
            if gathered.len() >= WRITE_BYTES || is_last {
                let bytes = gathered.split().freeze();
                let written = blocking(move || {
                    let written = unpacking.write_all(&bytes).and_then(|()| unpacking.flush());
                    Ok((unpacking, written))
                });
                let written = written.await?;
                unpacking = written.0;
                self.count(unpacking.place().offset);
                if let Err(error) = written.1 {
                    break Err(damaged(self.digest, &error.to_string()));
                }
            }
            match piece {
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let place = unpacking.into_place();
        match place.fault {
            Some(fault) => Err(fault.into()),
            None => Ok((place, ended)),
        }
    }

    /// Tells the meter how far it came.
    fn count(&mut self, offset: u64) {
        self.meter.advance(offset.saturating_sub(self.counted), 0);
        self.counted = self.counted.max(offset);
    }
}

/// Where the bytes of a blob go next.
struct Place {
    incoming: Incoming,
    offset: u64,
    size: u64,
    /// Why the store could not take them.
    fault: Option<StoreError>,
}

impl Place {
    async fn open(store: &Arc<Store>, digest: Digest, size: u64) -> Result<Place, RemoteError> {
        let store = Arc::clone(store);
        let opened = blocking(move || {
            let incoming = store.incoming(digest, size)?;
            Ok(Place {
                offset: incoming.continued(),
                incoming,
                size,
                fault: None,
            })
        });
        Ok(opened.await?)
    }

    fn at(mut self, offset: u64) -> Place {
        self.offset = offset;
        self
    }
}

impl Write for Place {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.size - self.offset.min(self.size) {
            return Err(io::Error::other("it is longer than it says"));
        }
        if let Err(fault) = self.incoming.write_at(bytes, self.offset) {
            self.fault = Some(fault);
            return Err(io::Error::other("the store failed"));
        }
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What undoes the encoding of an answer. However much a few bytes claim to be, they are written piece by piece.
enum Unpacking {
    Plain(Place),
    Zstd(Box<zstd::stream::write::Decoder<'static, Place>>),
}

impl Unpacking {
    fn zstd(place: Place) -> io::Result<Unpacking> {
        Ok(Unpacking::Zstd(Box::new(zstd::stream::write::Decoder::new(place)?)))
    }

    fn place(&self) -> &Place {
        match self {
            Unpacking::Plain(place) => place,
            Unpacking::Zstd(decoder) => decoder.get_ref(),
        }
    }

    fn into_place(self) -> Place {
        match self {
            Unpacking::Plain(place) => place,
            Unpacking::Zstd(decoder) => decoder.into_inner(),
        }
    }
}

impl Write for Unpacking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Unpacking::Plain(place) => place.write(bytes),
            Unpacking::Zstd(decoder) => decoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Unpacking::Plain(place) => place.flush(),
            Unpacking::Zstd(decoder) => decoder.flush(),
        }
    }
}

/// Returns the manifest of a folder whose manifest blob is here.
pub(super) async fn manifest_of(store: &Arc<Store>, content: Content) -> Result<Manifest, StoreError> {
    let store = Arc::clone(store);
    let named = Artifact {
        digest: content.digest,
        manifest: content.manifest,
        size_bytes: 0,
        files: 0,
    };
    blocking(move || store.checked_manifest(&named)).await
}

fn sum(blobs: &[(Digest, u64)]) -> u64 {
    blobs.iter().fold(0, |sum, (_, size)| sum.saturating_add(*size))
}

fn garbled(what: &str, error: &dyn std::error::Error) -> RemoteError {
    RemoteError::Damaged {
        what: format!("the answer for {what}"),
        why: error.to_string(),
    }
}

fn damaged(digest: Digest, why: &str) -> RemoteError {
    RemoteError::Damaged {
        what: format!("blob {}", digest.short()),
        why: why.to_owned(),
    }
}
