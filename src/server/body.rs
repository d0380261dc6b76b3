//! Bodies of requests: bounded in size and in how slowly they may come.
//!
//! Only the time in which the client is waited for counts, so a slow disk of ours is never taken for a slow client.

use std::time::{Duration, Instant};

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use super::refusal::Refusal;

/// How slow a client may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How long nothing may come, and how long the average is not looked at.
    pub patience: Duration,
    /// What has to come on average, in bytes per second.
    pub least_rate: u64,
}

/// The body of a request, piece by piece.
pub(super) struct Incoming {
    stream: BodyDataStream,
    pace: Pace,
    waited: Duration,
    received: u64,
    limit: u64,
}

impl Incoming {
    /// Takes a body of at most `limit` bytes; one that says that it is longer is refused at once.
    pub fn new(headers: &HeaderMap, body: Body, limit: u64, pace: Pace) -> Result<Incoming, Refusal> {
        let announced = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > limit) {
            return Err(too_long(limit));
        }
        if headers.contains_key(header::CONTENT_ENCODING) {
            let text = "bodies are taken as they are, without a content encoding";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
        }
        Ok(Incoming {
            stream: body.into_data_stream(),
            pace,
            waited: Duration::ZERO,
            received: 0,
            limit,
        })
    }

    /// Returns the next piece; none at the end.
    ///
    /// # Errors
    /// The body is too long or too slow, or the client went away.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let start = Instant::now();
        let piece = tokio::time::timeout(self.pace.patience, self.stream.next()).await;
        self.waited += start.elapsed();
        let piece = match piece {
            Err(_) => return Err(too_slow()),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => return Err(Refusal::bad(format!("the body broke off: {error}"))),
            Ok(Some(Ok(piece))) => piece,
        };
        self.received += piece.len() as u64;
        if self.received > self.limit {
            return Err(too_long(self.limit));
        }
        let due = self.waited.as_secs_f64() * self.pace.least_rate as f64;
        if self.waited > self.pace.patience && (self.received as f64) < due {
            return Err(too_slow());
        }
        Ok(Some(piece))
    }

    /// Returns the whole body.
    pub async fn whole(mut self) -> Result<Bytes, Refusal> {
        let mut all = BytesMut::new();
        while let Some(piece) = self.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }
}

fn too_long(limit: u64) -> Refusal {
    Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("the body is longer than {limit} bytes"),
    )
}

fn too_slow() -> Refusal {
    Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body came too slowly")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(patience: u64) -> Pace {
        Pace {
            patience: Duration::from_millis(patience),
            least_rate: 1000,
        }
    }

    #[tokio::test]
    async fn a_body_that_drips_is_given_up() {
        let drips = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"x")), ()))
        });
        let body = Incoming::new(&HeaderMap::new(), Body::from_stream(drips), 1 << 20, pace(50));
        let Ok(body) = body else {
            panic!("nothing was announced")
        };
        assert!(body.whole().await.is_err());
    }

    #[tokio::test]
    async fn a_body_that_is_longer_than_it_may_be_is_refused_even_if_it_says_nothing() {
        let body = Incoming::new(&HeaderMap::new(), Body::from(vec![0; 11]), 10, pace(1000));
        let Ok(body) = body else {
            panic!("nothing was announced")
        };
        assert!(body.whole().await.is_err());
        let body = Incoming::new(&HeaderMap::new(), Body::from(vec![0; 10]), 10, pace(1000));
        let Ok(body) = body else {
            panic!("nothing was announced")
        };
        assert_eq!(body.whole().await.map(|bytes| bytes.len()).ok(), Some(10));
    }
}
