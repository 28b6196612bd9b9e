package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// explain gives the error of a request its kind, unless ctx, the caller's, has
// ended. identifier is the tag or digest that was asked for, or "".
func (r *Repository) explain(ctx context.Context, err error, identifier string) error {
	if err == nil || ctx.Err() != nil {
		return err // timeouts of net/http pass for those of a context
	}
	if _, ok := errors.AsType[*errdefs.Error](err); ok {
		return err
	}
	if e, ok := errors.AsType[*transport.Error](err); ok {
		return r.explainStatus(e, identifier)
	}
	switch _, badCert := errors.AsType[*tls.CertificateVerificationError](err); {
	case badCert:
		return errdefs.Wrap(err, errdefs.Unavailable, "REGISTRY_UNAVAILABLE", "registry of %s has a certificate that is not trusted", r.label)
	case errors.Is(err, errStalled):
		return errdefs.Wrap(err, errdefs.Unavailable, "REGISTRY_UNAVAILABLE", "registry of %s has stopped answering", r.label)
	case errors.Is(err, errRefused):
		return errdefs.Wrap(err, errdefs.Unavailable, "REGISTRY_UNAVAILABLE", "registry of %s leads to where this host does not go: plain HTTP or a private network", r.label)
	}
	return errdefs.Wrap(err, errdefs.Unavailable, "REGISTRY_UNAVAILABLE", "registry of %s cannot be reached", r.label)
}

func (r *Repository) explainStatus(e *transport.Error, identifier string) error {
	switch e.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		if r.Anonymous {
			return errdefs.Wrap(e, errdefs.Unauthorized, "REGISTRY_UNAUTHORIZED", "registry denies access to %s: it does not exist or needs a login", r.label)
		}
		return errdefs.Wrap(e, errdefs.Unauthorized, "REGISTRY_UNAUTHORIZED", "registry does not accept the login for %s", r.label)
	case http.StatusNotFound:
		return errdefs.Wrap(e, errdefs.NotFound, "IMAGE_NOT_FOUND", "registry has no image %s%s", r.label, suffix(identifier))
	case http.StatusTooManyRequests:
		return errdefs.Wrap(e, errdefs.Unavailable, "REGISTRY_RATE_LIMITED", "registry of %s limits how much may be pulled", r.label)
	default:
		return errdefs.Wrap(e, errdefs.Unavailable, "REGISTRY_UNAVAILABLE", "registry of %s answers with status %d", r.label, e.StatusCode)
	}
}

func suffix(identifier string) string {
	if identifier == "" {
		return ""
	}
	if len(identifier) > 64 {
		return "@" + identifier
	}
	return ":" + identifier
}

func invalidName(err error, label string) error {
	return errdefs.Wrap(err, errdefs.Invalid, "INVALID_IMAGE_REF", "%.300q is no name of a repository", label)
}

func hostCredentials(err error) error {
	return errdefs.Wrap(err, errdefs.Unavailable, "REGISTRY_CREDENTIALS", "the host's registry credentials cannot be read")
}
