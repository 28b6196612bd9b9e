// Package layer reads one layer of an image: a tar archive, usually
// compressed, that says what the layer adds and removes.
//
// Read takes the archive in one pass while it arrives: it decompresses, checks
// the digest of the compressed and of the uncompressed bytes, streams the
// content of regular files to a Sink, and keeps the headers as Entries. What
// the entries of several layers mean together is the business of package
// merge.
//
// The archive comes from a stranger: names, sizes and counts are checked
// against a Quota that all layers of one image share, and names that could
// lead out of the image are refused. Errors are of package errdefs.
//
// Layers of one image are read concurrently; a Layer is immutable once read.
package layer
