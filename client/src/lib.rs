//! chemxor-client
