//! The mapped memory that the tables live in.
