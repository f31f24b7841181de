//! chemxor-runtime
