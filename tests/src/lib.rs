//! chemxor-tests
