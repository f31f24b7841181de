//! The life of a token, and that its text is nowhere but with its holder.

use chemxor_core::ErrorId;
use chemxor_proto::v1;
use chemxor_registry::token;
use data_encoding::{BASE32_NOPAD, HEXLOWER};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::api::{Api, Remote};
use crate::model::Model;
use crate::platform::{DAY, Platform, id, signed};

impl Platform {
    async fn create_token(
        &self,
        subject: &str,
        roles: &[&str],
        lifetime_s: u64,
    ) -> Result<v1::CreateTokenResponse, ErrorId> {
        let request = v1::CreateTokenRequest {
            subject: subject.to_owned(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            lifetime_s,
            ..Default::default()
        };
        let answer = self.admin().create_token(self.by("adam", request)).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| id(&status))
    }

    async fn lists_with(&self, token: &str) -> Result<(), ErrorId> {
        let request = signed(token, v1::ListModelsRequest::default());
        let answer = self.catalogue().list_models(request).await;
        answer.map(drop).map_err(|status| id(&status))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_works_until_it_is_revoked() {
    let platform = Platform::start().await;
    let made = platform.create_token("lea@lab", &["querier"], 0).await;
    let made = made.unwrap();
    let days = (made.expires_unix_ms - now_ms()) / DAY.as_millis() as i64;
    assert!((89..=90).contains(&days), "{days}");
    assert_eq!(platform.lists_with(&made.secret).await, Ok(()));
    for _ in 0..2 {
        let token_id = made.token_id.clone();
        let request = platform.by("adam", v1::RevokeTokenRequest { token_id });
        platform.admin().revoke_token(request).await.unwrap();
        let refused = Err(ErrorId::TokenRefused);
        assert_eq!(platform.lists_with(&made.secret).await, refused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_session_learns_that_its_token_was_revoked() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let model = Model::new("esol", 1);
    platform.submit("paul", &model).await;
    let api = Remote(&platform);
    api.approve("rita", "esol").await.unwrap();
    let token_id = platform.token("quinn").id;
    let (version, id) = (model.version(), token_id.to_string());
    assert_eq!(api.check(&version, &id).await, Ok(()));
    platform
        .store()
        .revoke_token(&platform.caller("adam"), token_id)
        .await
        .unwrap();
    assert_eq!(api.check(&version, &id).await, Err(ErrorId::TokenRefused));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_refused() {
    let platform = Platform::start().await;
    let insert = |id: u8, digest: &str, ends: &str| {
        format!(
            "insert into members (organisation, subject, roles) values ('default', 'late', '{{querier}}')
             on conflict do nothing;
             insert into tokens (id, organisation, subject, roles, digest, expires_at)
             values ('00000000-0000-0000-0000-00000000000{id}', 'default', 'late', '{{querier}}', '\\x{digest}', now() {ends})"
        )
    };
    for (number, ends, expected) in [
        (1, "+ interval '1 hour'", Ok(())),
        (2, "- interval '1 second'", Err(ErrorId::TokenRefused)),
    ] {
        let secret = token::generate().unwrap();
        let digest = HEXLOWER.encode(&token::digest(&secret).unwrap());
        platform
            .database
            .execute(&insert(number, &digest, ends))
            .await
            .unwrap();
        assert_eq!(platform.lists_with(&secret).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_would_break_the_rules_are_not_made() {
    let platform = Platform::start().await;
    let year = 366 * 86_400;
    for (subject, roles, lifetime) in [
        ("", &["querier"][..], 0),
        ("a\nb", &["querier"], 0),
        ("lea", &[], 0),
        ("lea", &["worker"], 0),
        ("lea", &["gateway", "querier"], 0),
        ("lea", &["root"], 0),
        ("lea", &["querier"], year + 1),
        ("lea", &["querier"], u64::MAX),
    ] {
        let refused = platform.create_token(subject, roles, lifetime).await;
        assert_eq!(
            refused.unwrap_err(),
            ErrorId::ArgumentInvalid,
            "{subject:?} {roles:?} {lifetime}"
        );
    }
    assert!(
        platform
            .create_token("lea", &["querier"], year)
            .await
            .is_ok()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_stands_in_the_database() {
    let platform = Platform::start().await;
    let made = platform.create_token("lea@lab", &["querier"], 0).await;
    let secret = made.unwrap().secret;
    let body = secret.strip_prefix("cxr_").unwrap();
    let bytes = BASE32_NOPAD
        .decode(body.to_ascii_uppercase().as_bytes())
        .unwrap();
    let dump = dump(&platform.database.url).await;
    // the search finds what is there
    assert!(dump.contains("lea@lab"));
    assert!(dump.contains(&HEXLOWER.encode(&token::digest(&secret).unwrap())));
    for trace in [
        body.to_owned(),
        body.to_ascii_uppercase(),
        HEXLOWER.encode(body.as_bytes()),
        HEXLOWER.encode(secret.as_bytes()),
        HEXLOWER.encode(&bytes[..32]),
    ] {
        assert!(!dump.contains(&trace), "a token is in the database");
    }
}

/// Every row of every table, as text; bytes are hexadecimal.
async fn dump(url: &str) -> String {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let tables: Vec<String> =
        sqlx::query_scalar("select tablename::text from pg_tables where schemaname = 'public'")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    assert!(tables.len() >= 8, "{tables:?}");
    let mut all = String::new();
    for table in tables {
        let rows: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(format!("select t::text from \"{table}\" t")))
                .fetch_all(&mut connection)
                .await
                .unwrap();
        all.extend(rows);
    }
    all
}

fn now_ms() -> i64 {
    (time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000) as i64
}

/// Notes and names stand in the audit log and in lists for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_pasted_into_a_note_or_a_name_is_refused() {
    let platform = Platform::start().await;
    let secret = platform.token("quinn").secret.to_string();
    for pasted in [secret.clone(), format!("token {secret}, of quinn")] {
        let made = platform.create_token(&pasted, &["querier"], 0).await;
        assert_eq!(made.err(), Some(ErrorId::ArgumentInvalid));
        let deny = v1::DenyCertificateRequest {
            subject: "chemxor://client/lab".to_owned(),
            serial: String::new(),
            reason: pasted,
        };
        let deny = platform.by("adam", deny);
        let refused = platform.governance().deny_certificate(deny).await;
        let refused = refused.unwrap_err();
        assert_eq!(id(&refused), ErrorId::ArgumentInvalid);
        assert!(!refused.message().contains(&secret));
    }
    let made = platform
        .create_token("quinn\u{202e}@lab", &["querier"], 0)
        .await;
    assert_eq!(made.err(), Some(ErrorId::ArgumentInvalid), "invisible");
    let log = platform.export().await;
    assert!(!log.contains(&secret[4..]), "the log holds no token");
    platform
        .create_token("lea@lab", &["querier"], 0)
        .await
        .unwrap();
}

/// The living tokens of administrators are those that a platform starts with, `adam`'s among them.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_token_is_made_only_while_no_administrator_has_one() {
    let platform = Platform::start().await;
    let store = platform.store();
    let first = |subject: &'static str| async move { store.first_token(subject, DAY).await };
    let refused = |made: Result<_, chemxor_registry::RegistryError>| {
        let error = made.err().unwrap();
        assert_eq!(error.id(), ErrorId::RoleMissing);
        error.to_string()
    };
    let said = refused(first("eve").await.map(drop));
    assert!(said.contains("default/adam"), "{said}");

    let mut database = PgConnection::connect(&platform.database.url).await.unwrap();
    sqlx::query("update tokens set revoked_at = now() where 'admin' = any(roles)")
        .execute(&mut database)
        .await
        .unwrap();
    // what is not committed is no token, and keeps nobody out
    let lost = first("lost").await.unwrap();
    assert_eq!(
        platform.lists_with(&lost.token.secret).await,
        Err(ErrorId::TokenRefused)
    );
    let secret = lost.token.secret.clone();
    drop(lost);
    assert_eq!(
        platform.lists_with(&secret).await,
        Err(ErrorId::TokenRefused)
    );

    // of two at the same time one is the first
    let make = |subject| async move { first(subject).await?.commit().await };
    let both = tokio::join!(make("alice"), make("bob"));
    let (made, other) = match both {
        (Ok(made), other) => (made, other),
        (other, Ok(made)) => (made, other),
        _ => panic!("neither was made"),
    };
    refused(other.map(drop));
    let caller = store.find_token(&made.secret).await.unwrap();
    let suspend = store.set_organisation(&caller, "acme", false).await;
    assert!(suspend.is_ok(), "an administrator of the platform");

    // a lost one keeps nobody out for ever
    sqlx::query("update members set removed_at = now() where subject in ('alice', 'bob')")
        .execute(&mut database)
        .await
        .unwrap();
    make("carol").await.unwrap();
}
