//! chemxor-registry
