//! Metering: what a gateway counts before and after queries.

use chemxor_proto::v1;
use chemxor_proto::v1::metering_server::Metering;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::auth;
use crate::service::{Services, argument, version_id};
use crate::store::{RESERVATION_LIFETIME, ReservationOrder};

fn reservation(bytes: &[u8]) -> Result<Uuid, Status> {
    Uuid::from_slice(bytes).map_err(|_| argument("a reservation id has 16 bytes"))
}

#[tonic::async_trait]
impl Metering for Services {
    async fn reserve_queries(
        &self,
        request: Request<v1::ReserveQueriesRequest>,
    ) -> Result<Response<v1::ReserveQueriesResponse>, Status> {
        auth::gateway(&self.store, &request).await?;
        let request = request.into_inner();
        let token = request.token_id.parse();
        let order = ReservationOrder {
            id: reservation(&request.reservation_id)?,
            version: version_id(&request.version)?,
            token: token.map_err(|_| argument("a token id is a UUID"))?,
            queries: request.queries,
            at_least: request.at_least.unwrap_or(request.queries),
            begun: request.begun,
            bytes: request.bytes,
            compute_ms: request.compute_ms,
        };
        let reserved = self.store.reserve_queries(&order).await?;
        Ok(Response::new(v1::ReserveQueriesResponse {
            left_today: reserved.queries_left,
            queries: reserved.queries,
            bytes_left: reserved.bytes_left,
            compute_ms_left: reserved.compute_ms_left,
            quota_revision: reserved.revision,
            expires_in_s: RESERVATION_LIFETIME.as_secs() as u32,
        }))
    }

    async fn settle_queries(
        &self,
        request: Request<v1::SettleQueriesRequest>,
    ) -> Result<Response<v1::SettleQueriesResponse>, Status> {
        auth::gateway(&self.store, &request).await?;
        let request = request.into_inner();
        self.store
            .settle_queries(
                reservation(&request.reservation_id)?,
                request.answered,
                request.bytes,
                request.compute_ms,
            )
            .await?;
        Ok(Response::new(v1::SettleQueriesResponse {}))
    }
}
