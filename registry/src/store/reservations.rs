//! Counting queries: reserve before they run, settle after.
//!
//! A reservation belongs to one session. It is resized while the session runs; every number in a
//! request is a total over its life, so a request that is repeated changes nothing.
//!
//! Invariant: at every moment `usage.queries` is at least what was released, whoever crashed; all
//! counting for one organisation and model passes one row lock, so nothing is counted twice or lost.
//! A reservation that is not renewed expires: it stays counted in full, and no longer as an open
//! session. The clock is the database's, days are UTC.

use std::time::Duration;

use chemxor_core::{ErrorId, VersionId};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::RegistryError;
use crate::store::quotas::{Quota, Usage, count};
use crate::store::{Store, Tx};

/// Most queries of one reservation that have not begun.
const MAX_QUERIES: u64 = 10_000;

/// How long a reservation is open without being renewed: less than the two minutes for which a run waits
/// when its gateway was killed and only one session is allowed.
pub const RESERVATION_LIFETIME: Duration = Duration::from_secs(90);

/// What a gateway asks for.
#[derive(Debug, Clone, Copy)]
pub struct ReservationOrder {
    /// Chosen by the gateway.
    pub id: Uuid,
    /// What is queried.
    pub version: VersionId,
    /// By whom.
    pub token: Uuid,
    /// Queries that it shall hold.
    pub queries: u64,
    /// It is refused when it cannot hold as many.
    pub at_least: u64,
    /// Queries that began so far.
    pub begun: u64,
    /// Bytes so far.
    pub bytes: u64,
    /// Milliseconds of workers so far.
    pub compute_ms: u64,
}

impl ReservationOrder {
    /// A new reservation of exactly as many queries.
    pub fn new(id: Uuid, version: VersionId, token: Uuid, queries: u64) -> Self {
        Self {
            id,
            version,
            token,
            queries,
            at_least: queries,
            begun: 0,
            bytes: 0,
            compute_ms: 0,
        }
    }
}

/// What a reservation holds, and what is left beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    /// Queries in all.
    pub queries: u64,
    /// Left today; none is unlimited.
    pub queries_left: Option<u64>,
    /// Left today.
    pub bytes_left: Option<u64>,
    /// Left today.
    pub compute_ms_left: Option<u64>,
    /// Of the limits.
    pub revision: i64,
}

/// Counters of one organisation and model, locked.
struct Counters {
    usage: Usage,
    /// Open sessions that are older than this one.
    older: u64,
    to_midnight: Duration,
}

/// A reservation as it is stored; all zero for a new one.
#[derive(Default)]
struct Stored {
    queries: u64,
    settled_before: u64,
    bytes: u64,
    compute_ms: u64,
    today: bool,
}

impl Tx {
    /// Locks the counters; every reservation of the organisation and model waits here.
    async fn lock_counters(
        &mut self,
        model: &str,
        organisation: &str,
    ) -> Result<u64, RegistryError> {
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
        count(&lifetime, "queries")
    }

    /// What is used; `id` is the reservation that asks.
    async fn counters(
        &mut self,
        model: &str,
        organisation: &str,
        id: Uuid,
    ) -> Result<Counters, RegistryError> {
        let lifetime_queries = self.lock_counters(model, organisation).await?;
        // a second statement, so that it sees what the transaction before committed
        let today = sqlx::query(
            "select queries, bytes, compute_ms,
                ceil(extract(epoch from date_trunc('day', now() at time zone 'utc') + interval '1 day'
                    - (now() at time zone 'utc')))::bigint as to_midnight,
                (select count(*) from reservations r where r.model = $1 and r.organisation = $2
                    and r.settled_at is null and r.expires_at > now() and r.id <> $3
                    and (r.created_at, r.id) < (coalesce((select created_at from reservations
                        where id = $3), 'infinity'), $3)) as older
             from usage
             where model = $1 and organisation = $2 and day = (now() at time zone 'utc')::date",
        )
        .bind(model)
        .bind(organisation)
        .bind(id)
        .fetch_one(self.connection())
        .await?;
        Ok(Counters {
            usage: Usage {
                organisation: organisation.to_owned(),
                queries_today: count(&today, "queries")?,
                bytes_today: count(&today, "bytes")?,
                compute_ms_today: count(&today, "compute_ms")?,
                lifetime_queries,
            },
            older: count(&today, "older")?,
            to_midnight: Duration::from_secs(count(&today, "to_midnight")?.max(1)),
        })
    }

    /// The reservation with this id, when there is one; refuses one of somebody else and one that is
    /// settled.
    async fn reservation(
        &mut self,
        id: Uuid,
        model: &str,
        organisation: &str,
    ) -> Result<Option<Stored>, RegistryError> {
        let row = sqlx::query(
            "select *, day = (now() at time zone 'utc')::date as today, settled_at is null as open
             from reservations where id = $1",
        )
        .bind(id)
        .fetch_optional(self.connection())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let same = row.try_get::<String, _>("model")? == model
            && row.try_get::<String, _>("organisation")? == organisation;
        if !same || !row.try_get::<bool, _>("open")? {
            return Err(argument(
                "this reservation is settled, or its id was used for something else",
            ));
        }
        stored(&row).map(Some)
    }

    /// Adds to the counters of the day of a reservation and of the lifetime.
    async fn count_up(&mut self, id: Uuid, queries: i64, more: &More) -> Result<(), RegistryError> {
        sqlx::query(
            "update usage u set queries = u.queries + case when u.day = r.day
                    then $2 else $3 end, bytes = u.bytes + $4, compute_ms = u.compute_ms + $5
             from reservations r where r.id = $1 and u.model = r.model
                and u.organisation = r.organisation and u.day in ('1970-01-01', r.day)",
        )
        .bind(id)
        .bind(more.queries_today)
        .bind(queries)
        .bind(more.bytes)
        .bind(more.compute_ms)
        .execute(self.connection())
        .await?;
        Ok(())
    }
}

/// What is added to the counters, beside the queries of the lifetime.
struct More {
    queries_today: i64,
    bytes: i64,
    compute_ms: i64,
}

fn argument(message: &str) -> RegistryError {
    RegistryError::refused(ErrorId::ArgumentInvalid, message)
}

fn stored(row: &PgRow) -> Result<Stored, RegistryError> {
    Ok(Stored {
        queries: count(row, "queries")?,
        settled_before: count(row, "settled_before")?,
        bytes: count(row, "bytes")?,
        compute_ms: count(row, "compute_ms")?,
        today: row.try_get("today")?,
    })
}

/// A total as the database holds it; far from overflow in every sum.
fn total(number: u64) -> i64 {
    i64::try_from(number.min(1 << 60)).unwrap_or(1 << 60)
}

/// How many queries beyond those that began the reservation may hold: at least `needed`, at most
/// `wanted`. The counters are without what it holds already and has not begun.
fn grant(
    quota: &Quota,
    counters: &Counters,
    needed: u64,
    wanted: u64,
) -> Result<u64, RegistryError> {
    let usage = &counters.usage;
    let who = &usage.organisation;
    let room =
        |used: u64, limit: Option<u64>| limit.map_or(u64::MAX, |limit| limit.saturating_sub(used));
    let lifetime = room(usage.lifetime_queries, quota.lifetime_queries);
    if lifetime < needed {
        let limit = quota.lifetime_queries.unwrap_or_default();
        let used = usage.lifetime_queries;
        let message = format!(
            "the extraction budget of {who} for this model is spent: {used} of {limit} queries are used or under way"
        );
        return Err(RegistryError::refused(ErrorId::BudgetExhausted, message));
    }
    let refuse = |what: &str, used: u64, limit: Option<u64>, retry_after| {
        let limit = limit.unwrap_or_default();
        let message =
            format!("the quota of {who} for this model is {limit} {what}, {used} are used");
        Err(RegistryError::Quota(message, retry_after))
    };
    let open = quota.concurrent_sessions;
    if room(counters.older, open) == 0 {
        return refuse(
            "concurrent sessions",
            counters.older,
            open,
            Duration::from_secs(1),
        );
    }
    let today = room(usage.queries_today, quota.queries_per_day);
    let day = counters.to_midnight;
    if today < needed {
        return refuse(
            "queries a day",
            usage.queries_today,
            quota.queries_per_day,
            day,
        );
    }
    let spent = [
        ("bytes a day", usage.bytes_today, quota.bytes_per_day),
        (
            "milliseconds of compute a day",
            usage.compute_ms_today,
            quota.compute_ms_per_day,
        ),
    ];
    let mut room_left = lifetime.min(today);
    for (what, used, limit) in spent {
        if room(used, limit) == 0 {
            if needed > 0 {
                return refuse(what, used, limit, day);
            }
            room_left = 0;
        }
    }
    Ok(needed.max(wanted.min(room_left / 4)).min(room_left))
}

impl Store {
    /// Counts queries before they run: makes a reservation or resizes it.
    pub async fn reserve_queries(
        &self,
        order: &ReservationOrder,
    ) -> Result<Reserved, RegistryError> {
        let ReservationOrder { id, begun, .. } = *order;
        let known = begun <= order.at_least && order.at_least <= order.queries;
        if !known || order.queries == 0 || order.queries - begun > MAX_QUERIES {
            return Err(argument(
                "a reservation has begun <= at_least <= queries, and 1 to 10,000 queries that have not begun",
            ));
        }
        let (holder, row) = self.live_session(&order.version, order.token).await?;
        let organisation = holder.caller.organisation;
        let model = &row.name;
        let mut tx = self.begin("reserve queries").await?;
        let mut counters = tx.counters(model, &organisation, id).await?;
        let held = tx.reservation(id, model, &organisation).await?;
        let exists = held.is_some();
        let held = held.unwrap_or_default();
        if begun < held.settled_before || (exists && begun > held.queries) {
            return Err(argument("fewer or more queries began than were reserved"));
        }
        // what began before today stays on its day; the rest is counted anew
        let before = if held.today {
            held.settled_before
        } else {
            begun
        };
        let idle = held.queries.saturating_sub(begun);
        let usage = &mut counters.usage;
        usage.lifetime_queries = usage.lifetime_queries.saturating_sub(idle);
        if held.today {
            let idle = idle.min(held.queries - held.settled_before);
            usage.queries_today = usage.queries_today.saturating_sub(idle);
        }
        let more = More {
            queries_today: 0,
            bytes: total(order.bytes.saturating_sub(held.bytes)),
            compute_ms: total(order.compute_ms.saturating_sub(held.compute_ms)),
        };
        usage.bytes_today += more.bytes as u64;
        usage.compute_ms_today += more.compute_ms as u64;
        let (quota, revision) = tx.quota(model, &organisation).await?;
        let extra = grant(
            &quota,
            &counters,
            order.at_least - begun,
            order.queries - begun,
        )?;
        let queries = begun + extra;
        if exists && !held.today {
            // the day before keeps what began on it
            let moved = -total(idle.min(held.queries - held.settled_before));
            let none = More {
                queries_today: moved,
                bytes: 0,
                compute_ms: 0,
            };
            tx.count_up(id, 0, &none).await?;
        }
        sqlx::query(
            "insert into reservations (id, model, organisation, day, queries, expires_at)
             values ($1, $2, $3, (now() at time zone 'utc')::date, $4, now() + make_interval(secs => $8))
             on conflict (id) do update set day = excluded.day, queries = excluded.queries,
                settled_before = $5, bytes = greatest(reservations.bytes, $6),
                compute_ms = greatest(reservations.compute_ms, $7), expires_at = excluded.expires_at",
        )
        .bind(id)
        .bind(model)
        .bind(&organisation)
        .bind(total(queries))
        .bind(total(before))
        .bind(total(order.bytes))
        .bind(total(order.compute_ms))
        .bind(RESERVATION_LIFETIME.as_secs_f64())
        .execute(tx.connection())
        .await?;
        let today = if held.today || !exists {
            total(queries) - total(held.queries)
        } else {
            total(queries) - total(before)
        };
        let more = More {
            queries_today: today,
            ..more
        };
        tx.count_up(id, total(queries) - total(held.queries), &more)
            .await?;
        tx.commit().await?;
        let left = |limit: Option<u64>, used: u64| limit.map(|n| n.saturating_sub(used));
        let usage = &counters.usage;
        Ok(Reserved {
            queries,
            queries_left: left(quota.queries_per_day, usage.queries_today + extra),
            bytes_left: left(quota.bytes_per_day, usage.bytes_today),
            compute_ms_left: left(quota.compute_ms_per_day, usage.compute_ms_today),
            revision,
        })
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
        let mut tx = self.begin("settle queries").await?;
        let owner = sqlx::query("select model, organisation from reservations where id = $1")
            .bind(id)
            .fetch_optional(tx.connection())
            .await?
            .ok_or_else(|| argument("there is no such reservation"))?;
        let (model, organisation): (String, String) =
            (owner.try_get("model")?, owner.try_get("organisation")?);
        // the same lock order as reserving
        tx.lock_counters(&model, &organisation).await?;
        let row = sqlx::query("select *, true as today from reservations where id = $1")
            .bind(id)
            .fetch_one(tx.connection())
            .await?;
        let held = stored(&row)?;
        if answered > held.queries {
            return Err(argument("more queries were answered than reserved"));
        }
        let open = sqlx::query(
            "update reservations set settled_at = now() where id = $1 and settled_at is null",
        )
        .bind(id)
        .execute(tx.connection())
        .await?;
        if open.rows_affected() == 0 {
            return Ok(());
        }
        let back = held.queries - answered;
        // no day gives back more than it counted
        let today = back.min(held.queries - held.settled_before);
        let more = More {
            queries_today: -total(today),
            bytes: total(bytes.saturating_sub(held.bytes)),
            compute_ms: total(compute_ms.saturating_sub(held.compute_ms)),
        };
        tx.count_up(id, -total(back), &more).await?;
        tx.commit().await
    }
}
