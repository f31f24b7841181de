//! Cards: what a publisher says about a version.

use chemxor_core::{Action, MAX_CARD_BYTES};
use chemxor_proto::v1;
use chemxor_proto::v1::cards_server::Cards;
use tonic::{Request, Response, Status};

use crate::auth;
use crate::service::{Services, argument, model_ref, version_id};
use crate::store::{CardRow, unix_ms};

fn card(row: CardRow) -> v1::Card {
    v1::Card {
        name: row.version.name,
        version: row.version.version.to_string(),
        revision: row.revision,
        card: row.card.into(),
        signature: row.signature.into(),
        publisher_key: row.version.publisher_key.into(),
        publisher: row.version.publisher,
        created_unix_ms: unix_ms(row.created_at),
    }
}

#[tonic::async_trait]
impl Cards for Services {
    async fn set_card(
        &self,
        request: Request<v1::SetCardRequest>,
    ) -> Result<Response<v1::Card>, Status> {
        let caller = auth::person(&self.store, &request, Action::Publish).await?;
        let request = request.into_inner();
        let version = version_id(&request.version)?;
        if request.card.len() > MAX_CARD_BYTES {
            return Err(argument(format!(
                "a card has at most {MAX_CARD_BYTES} bytes"
            )));
        }
        let row = self
            .store
            .set_card(&caller, &version, &request.card, &request.signature)
            .await?;
        Ok(Response::new(card(row)))
    }

    async fn get_card(
        &self,
        request: Request<v1::GetCardRequest>,
    ) -> Result<Response<v1::Card>, Status> {
        let caller = auth::person(&self.store, &request, Action::ReadCatalogue).await?;
        let model = model_ref(&request.into_inner().model)?;
        let row = self.store.card(&caller, &model).await?;
        self.store
            .audit_far_read(&caller, "card.read", &row.version.version.to_string())
            .await?;
        Ok(Response::new(card(row)))
    }
}
