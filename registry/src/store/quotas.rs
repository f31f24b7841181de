//! Limits on a model and what was used of them. Counting is in `reservations.rs`.
//!
//! Invariant: a limit that the own row of an organisation does not name is that of the row `*`, one
//! by one; naming one limit lifts no other. [`Tx::quota`] is the only place that decides it.

use chemxor_core::{Action, ModelName, ModelRef};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::RegistryError;
use crate::store::audit::Event;
use crate::store::{Caller, Store, Tx};

/// Limits on a model; none is what `*` says, and for `*` itself unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quota {
    /// For whom; `*` is every organisation, in what its own limits do not name.
    pub organisation: String,
    /// Queries a UTC day.
    pub queries_per_day: Option<u64>,
    /// Reservations that are open at the same time: a gateway holds one a session. Where the limit is
    /// lowered, the newest sessions end first.
    pub concurrent_sessions: Option<u64>,
    /// Bytes a UTC day.
    pub bytes_per_day: Option<u64>,
    /// Milliseconds of the workers a UTC day.
    pub compute_ms_per_day: Option<u64>,
    /// Extraction budget: queries over all tokens of the organisation, for ever.
    pub lifetime_queries: Option<u64>,
}

/// What an organisation used of a model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// Who.
    pub organisation: String,
    /// Queries today, running ones included.
    pub queries_today: u64,
    /// Bytes today.
    pub bytes_today: u64,
    /// Milliseconds today.
    pub compute_ms_today: u64,
    /// Queries ever, running ones included.
    pub lifetime_queries: u64,
}

fn limit(row: &PgRow, column: &str) -> Result<Option<u64>, RegistryError> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(|n| n as u64))
}

pub(crate) fn count(row: &PgRow, column: &str) -> Result<u64, RegistryError> {
    Ok(row.try_get::<i64, _>(column)? as u64)
}

fn read_quota(row: &PgRow) -> Result<Quota, RegistryError> {
    Ok(Quota {
        organisation: row.try_get("organisation")?,
        queries_per_day: limit(row, "queries_per_day")?,
        concurrent_sessions: limit(row, "concurrent_sessions")?,
        bytes_per_day: limit(row, "bytes_per_day")?,
        compute_ms_per_day: limit(row, "compute_ms_per_day")?,
        lifetime_queries: limit(row, "lifetime_queries")?,
    })
}

impl Tx {
    /// The limits that hold for an organisation, and their revision.
    pub(crate) async fn quota(
        &mut self,
        model: &str,
        organisation: &str,
    ) -> Result<(Quota, i64), RegistryError> {
        let row = sqlx::query(
            "select $2 as organisation,
                coalesce(o.queries_per_day, a.queries_per_day) as queries_per_day,
                coalesce(o.concurrent_sessions, a.concurrent_sessions) as concurrent_sessions,
                coalesce(o.bytes_per_day, a.bytes_per_day) as bytes_per_day,
                coalesce(o.compute_ms_per_day, a.compute_ms_per_day) as compute_ms_per_day,
                coalesce(o.lifetime_queries, a.lifetime_queries) as lifetime_queries,
                coalesce(greatest(o.revision, a.revision), 0) as revision
             from (select 1) as one
             left join quotas o on o.model = $1 and o.organisation = $2
             left join quotas a on a.model = $1 and a.organisation = '*'",
        )
        .bind(model)
        .bind(organisation)
        .fetch_one(self.connection())
        .await?;
        Ok((read_quota(&row)?, row.try_get("revision")?))
    }
}

impl Store {
    /// The revision of the limits that hold for an organisation.
    pub(crate) async fn quota_revision(
        &self,
        model: &str,
        organisation: &str,
    ) -> Result<i64, RegistryError> {
        let row = sqlx::query(
            "select coalesce(max(revision), 0) as revision from quotas
             where model = $1 and organisation in ($2, '*')",
        )
        .bind(model)
        .bind(organisation)
        .fetch_one(self.pool())
        .await?;
        Ok(row.try_get("revision")?)
    }

    /// Sets the limits of an organisation on a model; they hold from the next query on. Without any
    /// it has no limits of its own again. The row stays for its revision, which never goes back.
    pub async fn set_quota(
        &self,
        caller: &Caller,
        model: &ModelName,
        quota: &Quota,
    ) -> Result<(), RegistryError> {
        let mut tx = self.begin("set quota").await?;
        tx.require_model(caller, Action::ManageQuotas, model)
            .await?;
        if quota.organisation != "*" {
            tx.require_organisation(&quota.organisation).await?;
        }
        let limits = [
            quota.queries_per_day,
            quota.concurrent_sessions,
            quota.bytes_per_day,
            quota.compute_ms_per_day,
            quota.lifetime_queries,
        ];
        let limits = limits.map(|limit| limit.map(|n| i64::try_from(n).unwrap_or(i64::MAX)));
        let mut query = sqlx::query(
            "insert into quotas values ($1, $2, $3, $4, $5, $6, $7)
             on conflict (model, organisation) do update set
                queries_per_day = excluded.queries_per_day,
                concurrent_sessions = excluded.concurrent_sessions,
                bytes_per_day = excluded.bytes_per_day,
                compute_ms_per_day = excluded.compute_ms_per_day,
                lifetime_queries = excluded.lifetime_queries,
                revision = nextval('quota_revisions')",
        )
        .bind(model.as_str())
        .bind(&quota.organisation);
        for limit in limits {
            query = query.bind(limit);
        }
        query.execute(tx.connection()).await?;
        let show = |limit: Option<i64>| limit.map_or("-".to_owned(), |n| n.to_string());
        let detail = format!("{}: {}", quota.organisation, limits.map(show).join(" "));
        tx.audit(Event {
            actor: &caller.actor(),
            action: "quota.set",
            object: model.as_str(),
            detail: &detail,
        })
        .await?;
        tx.commit().await
    }

    /// Limits and use of a model.
    pub async fn list_quotas(
        &self,
        caller: &Caller,
        model: &ModelName,
    ) -> Result<(Vec<Quota>, Vec<Usage>), RegistryError> {
        let mut tx = self.begin("list quotas").await?;
        tx.require_model(caller, Action::ManageQuotas, model)
            .await?;
        let quotas = sqlx::query(
            "select * from quotas where model = $1 and num_nonnulls(queries_per_day,
                concurrent_sessions, bytes_per_day, compute_ms_per_day, lifetime_queries) > 0
             order by organisation",
        )
        .bind(model.as_str())
        .fetch_all(tx.connection())
        .await?;
        let usage = sqlx::query(
            "select l.organisation, l.queries as lifetime, coalesce(d.queries, 0) as queries,
                coalesce(d.bytes, 0) as bytes, coalesce(d.compute_ms, 0) as compute_ms
             from usage l left join usage d on d.model = l.model and d.organisation = l.organisation
                and d.day = (now() at time zone 'utc')::date
             where l.model = $1 and l.day = '1970-01-01' order by l.organisation",
        )
        .bind(model.as_str())
        .fetch_all(tx.connection())
        .await?;
        tx.audit_read(caller, "quota.list", model.as_str()).await?;
        tx.commit().await?;
        let quotas = quotas.iter().map(read_quota).collect::<Result<_, _>>()?;
        let usage = usage.iter().map(|row| {
            Ok(Usage {
                organisation: row.try_get("organisation")?,
                queries_today: count(row, "queries")?,
                bytes_today: count(row, "bytes")?,
                compute_ms_today: count(row, "compute_ms")?,
                lifetime_queries: count(row, "lifetime")?,
            })
        });
        Ok((quotas, usage.collect::<Result<_, RegistryError>>()?))
    }

    /// What the caller's own organisation may use of a model, and what it used.
    pub async fn allowance(
        &self,
        caller: &Caller,
        model: &ModelRef,
    ) -> Result<(Quota, Usage), RegistryError> {
        caller.require(Action::ReadCatalogue)?;
        let version = self.find_version(caller, model).await?;
        let (model, organisation) = (&version.name, &caller.organisation);
        let mut tx = self.begin("allowance").await?;
        let (quota, _) = tx.quota(model, organisation).await?;
        let row = sqlx::query(
            "select coalesce(sum(queries) filter (where day = '1970-01-01'), 0)::bigint as lifetime,
                coalesce(sum(queries) filter (where day > '1970-01-01'), 0)::bigint as queries,
                coalesce(sum(bytes) filter (where day > '1970-01-01'), 0)::bigint as bytes,
                coalesce(sum(compute_ms) filter (where day > '1970-01-01'), 0)::bigint as compute_ms
             from usage where model = $1 and organisation = $2
                and day in ('1970-01-01', (now() at time zone 'utc')::date)",
        )
        .bind(model)
        .bind(organisation)
        .fetch_one(tx.connection())
        .await?;
        Ok((
            quota,
            Usage {
                organisation: organisation.clone(),
                queries_today: count(&row, "queries")?,
                bytes_today: count(&row, "bytes")?,
                compute_ms_today: count(&row, "compute_ms")?,
                lifetime_queries: count(&row, "lifetime")?,
            },
        ))
    }
}
