//! What the registry promises, each behaviour once; `behaviours!` runs it on the store and through
//! gRPC.

macro_rules! behaviours {
    ($($name:ident)*) => {
        mod directly {
            use crate::api::Direct;
            use crate::platform::Platform;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let platform = Platform::start().await;
                super::$name(&platform, &Direct(&platform)).await;
            })*
        }
        mod through_grpc {
            use crate::api::Remote;
            use crate::platform::Platform;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let platform = Platform::start().await;
                super::$name(&platform, &Remote(&platform)).await;
            })*
        }
    };
}

mod governance;
mod publishing;
mod quotas;
