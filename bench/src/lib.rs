//! chemxor-bench
