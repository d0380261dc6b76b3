//! Claims as a client sees them: one machine runs a key, also when the server is restarted meanwhile.

use super::{Place, Served, Tested};
use crate::digest::{ContentKey, Digest};
use crate::remote::RemoteClaim;
use crate::store::Owner;

#[tokio::test(flavor = "multi_thread")]
async fn of_many_machines_one_holds_a_key() -> Tested {
    let place = Place::new()?;
    let served = Served::start(&place)?;
    let (key, owner) = (ContentKey(Digest::of(b"key")), Owner::current());
    let mut attempts = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (remote, owner) = (served.client()?, owner.clone());
        attempts.spawn(async move { remote.claim(key, &owner).await });
    }
    let (mut tokens, mut taken) = (Vec::new(), 0);
    while let Some(attempt) = attempts.join_next().await {
        match attempt?? {
            RemoteClaim::Held(token) => tokens.push(token),
            RemoteClaim::Taken { owner: holder, .. } => {
                assert_eq!(holder.as_ref(), Some(&owner));
                taken += 1;
            }
        }
    }
    assert_eq!((tokens.len(), taken), (1, 15));
    let mut token = tokens.remove(0);
    served.end().await?;

    let served = Served::start(&place)?;
    let remote = served.client()?;
    let RemoteClaim::Taken { mark, .. } = remote.claim(key, &owner).await? else {
        return Err("a restart forgot who holds the key".into());
    };
    assert!(
        matches!(remote.take_over(key, &owner, &mark).await?, RemoteClaim::Taken { .. }),
        "its lease is not over"
    );
    assert!(remote.renew(key, &owner, &mut token).await?);
    assert!(
        !remote
            .renew(key, &owner, &mut "somebody else's token".to_owned())
            .await?
    );
    remote.release(key, "somebody else's token").await?;
    assert!(matches!(remote.claim(key, &owner).await?, RemoteClaim::Taken { .. }));
    remote.release(key, &token).await?;
    assert!(matches!(remote.claim(key, &owner).await?, RemoteClaim::Held(_)));
    served.end().await
}
