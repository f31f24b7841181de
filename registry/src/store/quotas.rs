//! Quotas and the extraction budget: reserve before a query runs, settle after it.
//!
//! Invariant: at every moment `queries` is at least what was released, whoever crashed; all counting
//! for one organisation and model passes one row lock, so nothing is counted twice or lost. The clock
//! is the database's, days are UTC.

use std::time::Duration;

use chemxor_core::{Action, ErrorId, ModelName, VersionId};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::RegistryError;
use crate::store::audit::Event;
use crate::store::sessions::require_servable;
use crate::store::{Caller, Store, Tx};

/// Most queries of one reservation.
const MAX_QUERIES: u64 = 10_000;

/// Limits on a model; none is unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quota {
    /// For whom; `*` is every organisation without limits of its own.
    pub organisation: String,
    /// Queries a UTC day.
    pub queries_per_day: Option<u64>,
    /// Reservations that are open at the same time: a gateway holds one a session.
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

fn count(row: &PgRow, column: &str) -> Result<u64, RegistryError> {
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

/// Counters of one organisation and model, locked.
struct Counters {
    usage: Usage,
    open: u64,
    to_midnight: Duration,
}

impl Tx {
    async fn lock_counters(
        &mut self,
        model: &str,
        organisation: &str,
    ) -> Result<Counters, RegistryError> {
        // the lifetime row is there first, and locked first: it orders everything else
        sqlx::query(
            "insert into usage (model, organisation, day)
             values ($1, $2, '1970-01-01'), ($1, $2, (now() at time zone 'utc')::date)
             on conflict do nothing",
        )
        .bind(model)
        .bind(organisation)
        .execute(self.connection())
        .await?;
        let lifetime = sqlx::query(
            "select queries from usage
             where model = $1 and organisation = $2 and day = '1970-01-01' for update",
        )
        .bind(model)
        .bind(organisation)
        .fetch_one(self.connection())
        .await?;
        // a second statement, so that it sees what the transaction before committed
        let today = sqlx::query(
            "select queries, bytes, compute_ms,
                ceil(extract(epoch from date_trunc('day', now() at time zone 'utc') + interval '1 day'
                    - (now() at time zone 'utc')))::bigint as to_midnight,
                (select count(*) from reservations r where r.model = $1 and r.organisation = $2
                    and r.settled_at is null and r.expires_at > now()) as open
             from usage
             where model = $1 and organisation = $2 and day = (now() at time zone 'utc')::date",
        )
        .bind(model)
        .bind(organisation)
        .fetch_one(self.connection())
        .await?;
        Ok(Counters {
            usage: Usage {
                organisation: organisation.to_owned(),
                queries_today: count(&today, "queries")?,
                bytes_today: count(&today, "bytes")?,
                compute_ms_today: count(&today, "compute_ms")?,
                lifetime_queries: count(&lifetime, "queries")?,
            },
            open: count(&today, "open")?,
            to_midnight: Duration::from_secs(count(&today, "to_midnight")?.max(1)),
        })
    }

    async fn quota(&mut self, model: &str, organisation: &str) -> Result<Quota, RegistryError> {
        let row = sqlx::query(
            "select * from quotas where model = $1 and organisation in ($2, '*')
             order by organisation = '*' limit 1",
        )
        .bind(model)
        .bind(organisation)
        .fetch_optional(self.connection())
        .await?;
        row.as_ref().map(read_quota).unwrap_or(Ok(Quota::default()))
    }
}

/// Whether `queries` more fit; gives what is left today afterwards.
fn check(quota: &Quota, counters: &Counters, queries: u64) -> Result<Option<u64>, RegistryError> {
    let usage = &counters.usage;
    let passes = |used: u64, more: u64, limit: Option<u64>| {
        limit.is_some_and(|limit| used.saturating_add(more) > limit)
    };
    if passes(usage.lifetime_queries, queries, quota.lifetime_queries) {
        let message = format!(
            "the extraction budget of {} for this model is spent: {} of {} queries used",
            usage.organisation,
            usage.lifetime_queries,
            quota.lifetime_queries.unwrap_or_default()
        );
        return Err(RegistryError::refused(ErrorId::BudgetExhausted, message));
    }
    let day = counters.to_midnight;
    for (what, used, more, limit, retry_after) in [
        (
            "queries a day",
            usage.queries_today,
            queries,
            quota.queries_per_day,
            day,
        ),
        (
            "bytes a day",
            usage.bytes_today,
            1,
            quota.bytes_per_day,
            day,
        ),
        (
            "milliseconds of compute a day",
            usage.compute_ms_today,
            1,
            quota.compute_ms_per_day,
            day,
        ),
        (
            "concurrent sessions",
            counters.open,
            1,
            quota.concurrent_sessions,
            Duration::from_secs(1),
        ),
    ] {
        if passes(used, more, limit) {
            let limit = limit.unwrap_or_default();
            let who = &usage.organisation;
            let message = format!("the quota of {who} is {limit} {what}, {used} are used");
            return Err(RegistryError::Quota(message, retry_after));
        }
    }
    let left = |limit: u64| limit - usage.queries_today - queries;
    Ok(quota.queries_per_day.map(left))
}

impl Store {
    /// Sets the limits of an organisation on a model; they hold from the next query on.
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
                lifetime_queries = excluded.lifetime_queries",
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
        let quotas = sqlx::query("select * from quotas where model = $1 order by organisation")
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

    /// Counts queries before they run; gives what is left today. The same id counts once.
    pub async fn reserve_queries(
        &self,
        id: Uuid,
        version: &VersionId,
        token: Uuid,
        queries: u64,
    ) -> Result<Option<u64>, RegistryError> {
        if !(1..=MAX_QUERIES).contains(&queries) {
            let message = "a reservation has 1 to 10,000 queries";
            return Err(RegistryError::refused(ErrorId::ArgumentInvalid, message));
        }
        let (organisation, row) = self.live_session(version, token).await?;
        require_servable(&row)?;
        let mut tx = self.begin("reserve queries").await?;
        let counters = tx.lock_counters(&row.name, &organisation).await?;
        let known = sqlx::query("select model, organisation from reservations where id = $1")
            .bind(id)
            .fetch_optional(tx.connection())
            .await?;
        if let Some(known) = known {
            let same = known.try_get::<String, _>("model")? == row.name
                && known.try_get::<String, _>("organisation")? == organisation;
            if same {
                return Ok(None);
            }
            let message = "this reservation id was used for something else";
            return Err(RegistryError::refused(ErrorId::ArgumentInvalid, message));
        }
        let quota = tx.quota(&row.name, &organisation).await?;
        let left = check(&quota, &counters, queries)?;
        sqlx::query(
            "insert into reservations (id, model, organisation, day, queries, expires_at)
             values ($1, $2, $3, (now() at time zone 'utc')::date, $4, now() + interval '1 hour')",
        )
        .bind(id)
        .bind(&row.name)
        .bind(&organisation)
        .bind(queries as i64)
        .execute(tx.connection())
        .await?;
        sqlx::query(
            "update usage set queries = queries + $3 where model = $1 and organisation = $2
             and day in ('1970-01-01', (now() at time zone 'utc')::date)",
        )
        .bind(&row.name)
        .bind(&organisation)
        .bind(queries as i64)
        .execute(tx.connection())
        .await?;
        tx.commit().await?;
        Ok(left)
    }

    /// Ends a reservation: queries that released nothing are given back, bytes and time added. The
    /// second call changes nothing.
    pub async fn settle_queries(
        &self,
        id: Uuid,
        answered: u64,
        bytes: u64,
        compute_ms: u64,
    ) -> Result<(), RegistryError> {
        let argument = |message: &str| RegistryError::refused(ErrorId::ArgumentInvalid, message);
        let mut tx = self.begin("settle queries").await?;
        let row = sqlx::query("select * from reservations where id = $1")
            .bind(id)
            .fetch_optional(tx.connection())
            .await?
            .ok_or_else(|| argument("there is no such reservation"))?;
        let (model, organisation): (String, String) =
            (row.try_get("model")?, row.try_get("organisation")?);
        let reserved = count(&row, "queries")?;
        if answered > reserved {
            return Err(argument("more queries were answered than reserved"));
        }
        // the same lock order as reserving
        tx.lock_counters(&model, &organisation).await?;
        let open = sqlx::query(
            "update reservations set settled_at = now() where id = $1 and settled_at is null",
        )
        .bind(id)
        .execute(tx.connection())
        .await?;
        if open.rows_affected() == 0 {
            return Ok(());
        }
        sqlx::query(
            "update usage u set queries = u.queries - $2, bytes = u.bytes + $3,
                compute_ms = u.compute_ms + $4
             from reservations r where r.id = $1 and u.model = r.model
                and u.organisation = r.organisation and u.day in ('1970-01-01', r.day)",
        )
        .bind(id)
        .bind((reserved - answered) as i64)
        .bind(i64::try_from(bytes).unwrap_or(i64::MAX / 2))
        .bind(i64::try_from(compute_ms).unwrap_or(i64::MAX / 2))
        .execute(tx.connection())
        .await?;
        tx.commit().await
    }
}
