// Package auth is the domain of API keys: what a key is, which scopes there
// are, and who a request's caller is. It declares the Store that it needs and
// imports no technology; package store keeps keys, package httpapi reads the
// headers of requests and asks here.
//
// # Why a lookup by hash is enough
//
// A key has 192 random bits, and what is kept of it is its SHA-256. A caller's
// key is hashed and the hash is looked up in a map. That lookup takes no
// constant time, and need not: what its timing could tell is bits of the hash
// of a guess, from which neither a stored hash nor a key follows without
// inverting SHA-256. For the same reason the hash has no salt and is not slow:
// both protect what people can guess.
//
// Everything here is safe for concurrent use.
package auth
