//! Who serves what, all of it at once: what gateways route by.

use std::collections::BTreeSet;

use chemxor_core::VersionId;
use chemxor_proto::v1;
use sqlx::Row;

use crate::RegistryError;
use crate::store::Store;

impl Store {
    /// The placements of every version that may be served, and the workers they name.
    pub async fn placement_view(&self) -> Result<v1::PlacementView, RegistryError> {
        let mut tx = self.begin("placement view").await?;
        let rows = sqlx::query(
            // with the versions that nobody serves now: gateways must know that they may not go on with
            // the workers that they knew
            "select v.digest as version, p.worker, p.first_step, p.end_step, p.first_group, p.end_group
             from versions v join models m on m.name = v.name
             left join (placements p join workers w on w.name = p.worker)
                 on p.version = v.digest and worker_serves(w, m.organisation)
             where v.state in ('approved', 'deprecated') and coalesce(v.sunset_at > now(), true)
             order by v.digest, p.first_step, p.worker",
        )
        .fetch_all(tx.connection())
        .await?;
        let mut view = v1::PlacementView::default();
        for row in &rows {
            let digest = crate::store::digest(&row.try_get::<Vec<u8>, _>("version")?)?;
            let version = VersionId::from_bytes(digest).to_string();
            let number = |column: &str| Ok::<_, sqlx::Error>(row.try_get::<i32, _>(column)? as u32);
            let placements = match row.try_get::<Option<String>, _>("worker")? {
                Some(worker) => vec![v1::Placement {
                    worker,
                    first_step: number("first_step")?,
                    end_step: number("end_step")?,
                    first_group: number("first_group")?,
                    end_group: number("end_group")?,
                }],
                None => Vec::new(),
            };
            match view.versions.last_mut() {
                Some(last) if last.version == version => last.placements.extend(placements),
                _ => view.versions.push(v1::VersionPlacements {
                    version,
                    placements,
                }),
            }
        }
        let placed = view.versions.iter().flat_map(|version| &version.placements);
        let placed: BTreeSet<&str> = placed.map(|p| p.worker.as_str()).collect();
        let placed: Vec<&str> = placed.into_iter().collect();
        let workers =
            sqlx::query("select name, endpoint from workers where name = any($1) order by name")
                .bind(placed)
                .fetch_all(tx.connection())
                .await?;
        for row in &workers {
            view.workers.push(v1::Worker {
                name: row.try_get("name")?,
                endpoint: row.try_get("endpoint")?,
                ..Default::default()
            });
        }
        Ok(view)
    }
}
