//! chemxor-worker
