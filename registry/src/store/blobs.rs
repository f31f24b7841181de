//! Encrypted weight blobs, stored in pieces, complete once the digest has been checked.

use std::time::Duration;

use chemxor_core::{Action, ErrorId, VersionId};
use chemxor_proto::v1;
use sha2::{Digest, Sha256};
use sqlx::Row;

use crate::RegistryError;
use crate::store::audit::Event;
use crate::store::{Caller, Store, Tx};

/// A blob that is not complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingBlob {
    /// Its content address.
    pub sha256: Vec<u8>,
    /// Bytes already here.
    pub offset: u64,
}

impl Store {
    /// Blobs of a version that still lack bytes.
    pub async fn missing_blobs(
        &self,
        version: &VersionId,
    ) -> Result<Vec<MissingBlob>, RegistryError> {
        let mut tx = self.begin("missing blobs").await?;
        let rows = sqlx::query(
            "select b.sha256, coalesce(sum(length(p.content)), 0)::bigint as stored
             from blobs b left join blob_pieces p on p.version = b.version and p.sha256 = b.sha256
             where b.version = $1 and not b.complete group by b.step, b.sha256 order by b.step",
        )
        .bind(version.as_bytes().as_slice())
        .fetch_all(tx.connection())
        .await?;
        rows.iter()
            .map(|row| {
                let offset = row.try_get::<i64, _>("stored")? as u64;
                Ok(MissingBlob {
                    sha256: row.try_get("sha256")?,
                    offset,
                })
            })
            .collect()
    }

    /// Appends a piece at `offset`, which must be where the stored bytes end; gives the new end.
    pub async fn append_piece(
        &self,
        caller: &Caller,
        version: &VersionId,
        sha256: &[u8],
        offset: u64,
        content: &[u8],
    ) -> Result<u64, RegistryError> {
        let argument = |message: String| RegistryError::refused(ErrorId::ArgumentInvalid, message);
        caller.require(Action::Publish)?;
        let mut tx = self.begin("append piece").await?;
        let row = tx.lock_version(version).await?;
        // another organisation's draft does not exist
        let row =
            row.filter(|row| row.organisation == caller.organisation && caller.covers(&row.name));
        let row = row.ok_or_else(|| {
            RegistryError::refused(ErrorId::ModelUnknown, "there is no such version")
        })?;
        if row.publisher != caller.subject {
            let message = "only its publisher may upload to a version";
            return Err(RegistryError::refused(ErrorId::RoleMissing, message));
        }
        let blob = sqlx::query(
            "select b.length, b.complete, coalesce(
                (select sum(length(content)) from blob_pieces p
                 where p.version = b.version and p.sha256 = b.sha256), 0)::bigint as stored
             from blobs b where b.version = $1 and b.sha256 = $2",
        )
        .bind(version.as_bytes().as_slice())
        .bind(sha256)
        .fetch_optional(tx.connection())
        .await?
        .ok_or_else(|| argument("the version announces no such blob".to_owned()))?;
        let (length, stored): (i64, i64) = (blob.try_get("length")?, blob.try_get("stored")?);
        if blob.try_get::<bool, _>("complete")? {
            return Ok(length as u64);
        }
        let end = offset.saturating_add(content.len() as u64);
        if offset != stored as u64 || end > length as u64 || content.is_empty() {
            return Err(argument(format!(
                "a piece at {offset} of {} bytes does not fit: {stored} of {length} bytes are stored",
                content.len()
            )));
        }
        sqlx::query("insert into blob_pieces values ($1, $2, $3, $4)")
            .bind(version.as_bytes().as_slice())
            .bind(sha256)
            .bind(stored)
            .bind(content)
            .execute(tx.connection())
            .await?;
        sqlx::query("update blobs set touched_at = now() where version = $1 and sha256 = $2")
            .bind(version.as_bytes().as_slice())
            .bind(sha256)
            .execute(tx.connection())
            .await?;
        if stored == 0 {
            // an announcement that was left for long counted no more
            tx.require_room(&row.organisation, self.draft_bytes).await?;
        }
        if end == length as u64 && !complete(&mut tx, version, sha256).await? {
            // commits the removal, so that the next upload starts from the first byte
            tx.commit().await?;
            let message = "the uploaded bytes have another digest than announced";
            return Err(RegistryError::refused(ErrorId::BlobCorrupt, message));
        }
        tx.commit().await?;
        Ok(end)
    }

    /// Removes what was uploaded to drafts and not touched for `grace`; gives blobs and bytes. The
    /// draft stays: its publisher begins the upload anew.
    pub async fn collect_orphans(&self, grace: Duration) -> Result<(u64, u64), RegistryError> {
        let (mut blobs, mut bytes) = (0, 0);
        // a transaction for each: what is audited makes others wait until it ends
        loop {
            let mut tx = self.begin("collect orphans").await?;
            // a draft under upload is locked: it is no orphan
            let draft = sqlx::query(
                "select digest from versions v where state = 'draft' and exists (
                    select 1 from blob_pieces p join blobs b using (version, sha256)
                    where b.version = v.digest and b.touched_at < now() - make_interval(secs => $1))
                 limit 1 for update skip locked",
            )
            .bind(grace.as_secs_f64())
            .fetch_optional(tx.connection())
            .await?;
            let Some(draft) = draft else {
                return Ok((blobs, bytes));
            };
            let digest: Vec<u8> = draft.try_get("digest")?;
            let gone = sqlx::query(
                "with old as (
                    update blobs set complete = false where version = $1
                        and touched_at < now() - make_interval(secs => $2)
                        and exists (select 1 from blob_pieces p where p.version = blobs.version
                            and p.sha256 = blobs.sha256)
                    returning sha256),
                 gone as (delete from blob_pieces p using old where p.version = $1
                    and p.sha256 = old.sha256 returning p.sha256, length(p.content) as bytes)
                 select count(distinct sha256) as blobs, coalesce(sum(bytes), 0)::bigint as bytes
                 from gone",
            )
            .bind(&digest)
            .bind(grace.as_secs_f64())
            .fetch_one(tx.connection())
            .await?;
            let (some, size): (i64, i64) = (gone.try_get("blobs")?, gone.try_get("bytes")?);
            (blobs, bytes) = (blobs + some as u64, bytes + size as u64);
            let version = VersionId::from_bytes(crate::store::digest(&digest)?).to_string();
            let detail = format!("{some} blobs, {size} bytes of an upload that was left behind");
            tx.audit(Event {
                actor: "registry",
                action: "blob.collect",
                object: &version,
                detail: &detail,
            })
            .await?;
            tx.commit().await?;
        }
    }

    /// The next piece of a complete blob at `start`, if the worker serves its step of a version
    /// that was submitted and not revoked.
    pub async fn read_piece(
        &self,
        worker: &str,
        version: &VersionId,
        sha256: &[u8],
        start: u64,
    ) -> Result<Option<Vec<u8>>, RegistryError> {
        let mut tx = self.begin("read piece").await?;
        let row = sqlx::query(
            "select p.content from blob_pieces p
             join blobs b on b.version = p.version and b.sha256 = p.sha256
             join placements l on l.version = b.version and l.worker = $1
                and b.step >= l.first_step and b.step < l.end_step
             join versions v on v.digest = b.version
                and v.state in ('submitted', 'approved', 'deprecated')
             where p.version = $2 and p.sha256 = $3 and p.start_at = $4 and b.complete",
        )
        .bind(worker)
        .bind(version.as_bytes().as_slice())
        .bind(sha256)
        .bind(start as i64)
        .fetch_optional(tx.connection())
        .await?;
        Ok(row.map(|row| row.try_get("content")).transpose()?)
    }
}

impl Tx {
    /// Refuses when the drafts of an organisation would take more than `limit` bytes. What was collected
    /// since does not count.
    pub(crate) async fn require_room(
        &mut self,
        organisation: &str,
        limit: u64,
    ) -> Result<(), RegistryError> {
        // of two drafts that begin at the same time the second counts the first
        sqlx::query("select pg_advisory_xact_lock(7126320, hashtext($1))")
            .bind(organisation)
            .execute(self.connection())
            .await?;
        let taken: i64 = sqlx::query_scalar(
            "select coalesce(sum(b.length), 0)::bigint from blobs b
             join versions v on v.digest = b.version join models m on m.name = v.name
             where m.organisation = $1 and v.state = 'draft' and (
                b.touched_at > now() - interval '1 hour'
                or exists (select 1 from blob_pieces p
                    where p.version = b.version and p.sha256 = b.sha256))",
        )
        .bind(organisation)
        .fetch_one(self.connection())
        .await?;
        if taken as u64 <= limit {
            return Ok(());
        }
        let message = format!(
            "the drafts of {organisation} would take {} MiB, of {} MiB that they may: submit them, or \
             wait until what was left is collected",
            taken >> 20,
            limit >> 20
        );
        Err(RegistryError::Quota(message, Duration::from_secs(3600)))
    }

    /// Makes the blobs of a draft those announced; pieces of a blob announced again stay.
    pub(crate) async fn replace_blobs(
        &mut self,
        version: &VersionId,
        blobs: &[v1::EncryptedBlob],
    ) -> Result<(), RegistryError> {
        let steps: Vec<i32> = blobs.iter().map(|blob| blob.step as i32).collect();
        let digests: Vec<&[u8]> = blobs.iter().map(|blob| blob.sha256.as_ref()).collect();
        let lengths: Vec<i64> = blobs.iter().map(|blob| blob.length as i64).collect();
        for statement in [
            "delete from blob_pieces p using blobs b
             where b.version = $1 and p.version = b.version and p.sha256 = b.sha256
               and (b.step, b.sha256, b.length) not in
                   (select * from unnest($2::integer[], $3::bytea[], $4::bigint[]))",
            "delete from blobs b
             where b.version = $1 and (b.step, b.sha256, b.length) not in
                   (select * from unnest($2::integer[], $3::bytea[], $4::bigint[]))",
            "insert into blobs (version, step, sha256, length)
             select $1::bytea, * from unnest($2::integer[], $3::bytea[], $4::bigint[])
             on conflict (version, step) do nothing",
        ] {
            sqlx::query(statement)
                .bind(version.as_bytes().as_slice())
                .bind(&steps)
                .bind(&digests)
                .bind(&lengths)
                .execute(self.connection())
                .await?;
        }
        Ok(())
    }

    /// Refuses when a blob of the version is not complete.
    pub(crate) async fn require_all_blobs(
        &mut self,
        version: &VersionId,
    ) -> Result<(), RegistryError> {
        let row = sqlx::query(
            "select count(*) as missing from blobs where version = $1 and not complete",
        )
        .bind(version.as_bytes().as_slice())
        .fetch_one(self.connection())
        .await?;
        match row.try_get::<i64, _>("missing")? {
            0 => Ok(()),
            missing => {
                let message = format!("{missing} blobs are not complete");
                Err(RegistryError::refused(ErrorId::BlobMissing, message))
            }
        }
    }
}

/// Checks the digest over all pieces: marks the blob complete, or removes its pieces.
async fn complete(tx: &mut Tx, version: &VersionId, sha256: &[u8]) -> Result<bool, RegistryError> {
    let key = version.as_bytes().as_slice();
    let starts = sqlx::query(
        "select start_at from blob_pieces where version = $1 and sha256 = $2 order by start_at",
    )
    .bind(key)
    .bind(sha256)
    .fetch_all(tx.connection())
    .await?;
    let mut hash = Sha256::new();
    for row in starts {
        let start: i64 = row.try_get("start_at")?;
        let piece = sqlx::query(
            "select content from blob_pieces where version = $1 and sha256 = $2 and start_at = $3",
        )
        .bind(key)
        .bind(sha256)
        .bind(start)
        .fetch_one(tx.connection())
        .await?;
        hash.update(piece.try_get::<&[u8], _>("content")?);
    }
    let genuine = hash.finalize().as_slice() == sha256;
    let statement = if genuine {
        "update blobs set complete = true where version = $1 and sha256 = $2"
    } else {
        "delete from blob_pieces where version = $1 and sha256 = $2"
    };
    sqlx::query(statement)
        .bind(key)
        .bind(sha256)
        .execute(tx.connection())
        .await?;
    Ok(genuine)
}
