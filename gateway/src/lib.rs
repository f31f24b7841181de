//! chemxor-gateway
