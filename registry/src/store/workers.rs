//! Partition workers and what they must serve.

use chemxor_core::{ErrorId, OrganisationName, VersionId, WorkerName};
use chemxor_proto::{STATE_KEY_STEP, v1};
use sqlx::Row;
use time::OffsetDateTime;

use crate::RegistryError;
use crate::store::audit::Event;
use crate::store::{Store, Tx, VersionRow};

/// A worker as it announced itself.
#[derive(Debug, Clone)]
pub struct WorkerRow {
    /// As in its certificate.
    pub name: String,
    /// X25519 public key.
    pub sealing_key: Vec<u8>,
    /// host:port.
    pub endpoint: String,
    /// Last heartbeat.
    pub last_seen: OffsetDateTime,
    /// Organisations whose models it serves; empty means everybody's.
    pub organisations: Vec<String>,
}

/// What a worker says of itself when it registers, and the certificate with which it did.
#[derive(Debug, Clone, Copy)]
pub struct Registration<'a> {
    /// X25519 public key.
    pub sealing_key: &'a [u8],
    /// host:port.
    pub endpoint: &'a str,
    /// Organisations whose models it serves; empty means everybody's.
    pub organisations: &'a [String],
    /// Lower-case hexadecimal.
    pub certificate_serial: &'a str,
}

/// Most organisations that a worker may name.
const MAX_ORGANISATIONS: usize = 100;

impl WorkerRow {
    pub(crate) fn to_proto(&self) -> v1::Worker {
        v1::Worker {
            name: self.name.clone(),
            sealing_key: self.sealing_key.clone().into(),
            endpoint: self.endpoint.clone(),
            last_seen_unix_ms: (self.last_seen.unix_timestamp_nanos() / 1_000_000) as i64,
            organisations: self.organisations.clone(),
        }
    }
}

impl Store {
    /// Announces a worker, or refreshes it. The sealing key never changes under one name.
    pub async fn register_worker(
        &self,
        name: &WorkerName,
        registration: &Registration<'_>,
    ) -> Result<(), RegistryError> {
        let argument = |message: &str| RegistryError::refused(ErrorId::ArgumentInvalid, message);
        let Registration {
            sealing_key,
            endpoint,
            ..
        } = *registration;
        if sealing_key.len() != 32 {
            return Err(argument("a sealing key has 32 bytes"));
        }
        let printable = !endpoint
            .chars()
            .any(|c| c.is_control() || c.is_whitespace());
        if endpoint.len() > 255 || !endpoint.contains(':') || !printable {
            return Err(argument("an endpoint is host:port"));
        }
        if registration.organisations.len() > MAX_ORGANISATIONS {
            return Err(argument("a worker names at most 100 organisations"));
        }
        for organisation in registration.organisations {
            organisation
                .parse::<OrganisationName>()
                .map_err(|error| argument(&format!("organisation {organisation:?}: {error}")))?;
        }
        let mut tx = self.begin("register worker").await?;
        let known = sqlx::query(
            "select sealing_key, organisations from workers where name = $1 for update",
        )
        .bind(name.as_str())
        .fetch_optional(tx.connection())
        .await?;
        if let Some(row) = &known
            && row.try_get::<Vec<u8>, _>("sealing_key")? != sealing_key
        {
            return Err(RegistryError::refused(
                ErrorId::CertificateRefused,
                "this worker registered with another sealing key before: restore its key file, or give it a new name",
            ));
        }
        sqlx::query(
            "insert into workers (name, sealing_key, endpoint, organisations, certificate_serial)
             values ($1, $2, $3, $4, $5)
             on conflict (name) do update set endpoint = excluded.endpoint, last_seen = now(),
                organisations = excluded.organisations,
                certificate_serial = excluded.certificate_serial",
        )
        .bind(name.as_str())
        .bind(sealing_key)
        .bind(endpoint)
        .bind(registration.organisations)
        .bind(registration.certificate_serial)
        .execute(tx.connection())
        .await?;
        let before = known.map(|row| row.try_get::<Vec<String>, _>("organisations"));
        let before = before.transpose()?;
        if before.as_deref() != Some(registration.organisations) {
            let object = name.as_str();
            let whom = match registration.organisations {
                [] => "everybody".to_owned(),
                some => some.join(", "),
            };
            tx.audit(Event {
                actor: object,
                action: "worker.register",
                object,
                detail: &format!("{endpoint}, serves {whom}"),
            })
            .await?;
        }
        tx.commit().await
    }

    /// The workers that were heard of in the last ten minutes: those that serve an organisation, or
    /// all of them.
    pub async fn list_workers(
        &self,
        organisation: Option<&str>,
    ) -> Result<Vec<WorkerRow>, RegistryError> {
        let mut tx = self.begin("list workers").await?;
        let rows = sqlx::query(
            "select * from workers w where last_seen > now() - interval '10 minutes'
             and ($1::text is null or worker_serves(w, $1)) order by name",
        )
        .bind(organisation)
        .fetch_all(tx.connection())
        .await?;
        rows.iter().map(read_worker).collect()
    }

    /// Where the steps of a version are placed.
    pub async fn placements(
        &self,
        version: &VersionId,
    ) -> Result<Vec<v1::Placement>, RegistryError> {
        self.begin("placements").await?.placements(version).await
    }

    /// Where the steps of a version are served, and by which workers: those that still serve its
    /// organisation.
    pub async fn serving(
        &self,
        version: &VersionRow,
    ) -> Result<(Vec<v1::Placement>, Vec<WorkerRow>), RegistryError> {
        let mut tx = self.begin("workers of version").await?;
        let mut placements = tx.placements(&version.version).await?;
        let rows = sqlx::query(
            "select * from workers w
             where name in (select worker from placements where version = $1)
             and worker_serves(w, $2) order by name",
        )
        .bind(version.version.as_bytes().as_slice())
        .bind(&version.organisation)
        .fetch_all(tx.connection())
        .await?;
        let workers: Vec<WorkerRow> = rows.iter().map(read_worker).collect::<Result<_, _>>()?;
        placements.retain(|placement| workers.iter().any(|worker| worker.name == placement.worker));
        Ok((placements, workers))
    }

    /// What a worker must serve: its own steps of versions that are complete and not revoked, with
    /// the blobs and keys of these steps only.
    pub async fn assignments(
        &self,
        worker: &WorkerName,
    ) -> Result<Vec<v1::Assignment>, RegistryError> {
        let mut tx = self.begin("assignments").await?;
        let placed = sqlx::query(
            "select v.digest, v.name, v.manifest, p.first_step, p.end_step, p.first_group, p.end_group
             from placements p join versions v on v.digest = p.version
             join models m on m.name = v.name join workers w on w.name = p.worker
             where p.worker = $1 and worker_serves(w, m.organisation) and v.state in ('submitted', 'approved', 'deprecated')
             order by v.created_at, p.first_step",
        )
        .bind(worker.as_str())
        .fetch_all(tx.connection())
        .await?;
        let mut assignments = Vec::with_capacity(placed.len());
        for row in placed {
            let digest: Vec<u8> = row.try_get("digest")?;
            let version = VersionId::from_bytes(crate::store::digest(&digest)?);
            let (first, end): (i32, i32) = (row.try_get("first_step")?, row.try_get("end_step")?);
            let blobs = sqlx::query(
                "select step, sha256, length from blobs
                 where version = $1 and step >= $2 and step < $3 order by step",
            )
            .bind(&digest)
            .bind(first)
            .bind(end)
            .fetch_all(tx.connection())
            .await?;
            let keys = sqlx::query(
                "select step, encapsulated, ciphertext from sealed_keys
                 where version = $1 and worker = $2 order by step",
            )
            .bind(&digest)
            .bind(worker.as_str())
            .fetch_all(tx.connection())
            .await?;
            let mut keys = keys
                .iter()
                .map(|key| {
                    Ok(v1::SealedKey {
                        worker: worker.to_string(),
                        step: key.try_get::<i64, _>("step")? as u32,
                        encapsulated: key.try_get::<Vec<u8>, _>("encapsulated")?.into(),
                        ciphertext: key.try_get::<Vec<u8>, _>("ciphertext")?.into(),
                    })
                })
                .collect::<Result<Vec<_>, RegistryError>>()?;
            let state = keys.iter().position(|key| key.step == STATE_KEY_STEP);
            let state_key = state.map(|index| keys.remove(index));
            keys.retain(|key| (first as u32..end as u32).contains(&key.step));
            assignments.push(v1::Assignment {
                name: row.try_get("name")?,
                version: version.to_string(),
                manifest: row.try_get::<Vec<u8>, _>("manifest")?.into(),
                first_step: first as u32,
                end_step: end as u32,
                first_group: row.try_get::<i32, _>("first_group")? as u32,
                end_group: row.try_get::<i32, _>("end_group")? as u32,
                blobs: blobs
                    .iter()
                    .map(|blob| {
                        Ok(v1::EncryptedBlob {
                            step: blob.try_get::<i32, _>("step")? as u32,
                            sha256: blob.try_get::<Vec<u8>, _>("sha256")?.into(),
                            length: blob.try_get::<i64, _>("length")? as u64,
                        })
                    })
                    .collect::<Result<Vec<_>, RegistryError>>()?,
                keys,
                state_key,
            });
        }
        Ok(assignments)
    }
}

impl Tx {
    /// Where the steps of a version are served.
    pub(crate) async fn placements(
        &mut self,
        version: &VersionId,
    ) -> Result<Vec<v1::Placement>, RegistryError> {
        let rows =
            sqlx::query("select * from placements where version = $1 order by first_step, worker")
                .bind(version.as_bytes().as_slice())
                .fetch_all(self.connection())
                .await?;
        rows.iter()
            .map(|row| {
                Ok(v1::Placement {
                    worker: row.try_get("worker")?,
                    first_step: row.try_get::<i32, _>("first_step")? as u32,
                    end_step: row.try_get::<i32, _>("end_step")? as u32,
                    first_group: row.try_get::<i32, _>("first_group")? as u32,
                    end_group: row.try_get::<i32, _>("end_group")? as u32,
                })
            })
            .collect()
    }

    /// Refuses when one of the workers never registered, was not heard of for ten minutes, or does not
    /// serve the organisation.
    pub(crate) async fn require_workers(
        &mut self,
        names: &[&str],
        organisation: &str,
    ) -> Result<(), RegistryError> {
        let rows = sqlx::query(
            "select name from workers w
             where name = any($1) and last_seen > now() - interval '10 minutes'
             and worker_serves(w, $2)",
        )
        .bind(names)
        .bind(organisation)
        .fetch_all(self.connection())
        .await?;
        let known = rows
            .iter()
            .map(|row| row.try_get::<String, _>("name"))
            .collect::<Result<Vec<_>, _>>()?;
        match names.iter().find(|name| !known.iter().any(|k| k == *name)) {
            Some(name) => {
                let message = format!(
                    "worker {name:?} is not registered, or does not serve {organisation:?}; \
                     `chemxor workers` shows those that do"
                );
                Err(RegistryError::refused(ErrorId::WorkerUnknown, message))
            }
            None => Ok(()),
        }
    }
}

fn read_worker(row: &sqlx::postgres::PgRow) -> Result<WorkerRow, RegistryError> {
    Ok(WorkerRow {
        name: row.try_get("name")?,
        sealing_key: row.try_get("sealing_key")?,
        endpoint: row.try_get("endpoint")?,
        last_seen: row.try_get("last_seen")?,
        organisations: row.try_get("organisations")?,
    })
}
