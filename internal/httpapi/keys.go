package httpapi

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

func (s *Server) registerKeys() {
	tags := []string{"keys"}
	register(s, huma.Operation{
		OperationID: "createKey", Method: http.MethodPost, Path: "/keys", Summary: "Create an API key", Tags: tags, Security: needs(auth.KeysWrite),
		Description: "The answer holds the key itself, this once. A key cannot make one with scopes that it lacks, or one that outlives it.", DefaultStatus: http.StatusCreated,
	}, s.createKey, ofStore, failures{errdefs.Invalid, errdefs.Forbidden, errdefs.Exhausted})
	register(s, huma.Operation{
		OperationID: "listKeys", Method: http.MethodGet, Path: "/keys", Summary: "List API keys, newest first", Tags: tags, Security: needs(auth.KeysRead),
		Description: "Revoked and expired ones too.",
		Responses:   map[string]*huma.Response{"200": {Description: "The keys", Content: listContent[hyperfleet.Key](s)}},
	}, s.listKeys, ofStore)
	register(s, huma.Operation{
		OperationID: "getKey", Method: http.MethodGet, Path: "/keys/{id}", Summary: "Get the record of an API key", Tags: tags, Security: needs(auth.KeysRead),
	}, s.getKey, ofStore, failures{errdefs.NotFound})
	register(s, huma.Operation{
		OperationID: "revokeKey", Method: http.MethodDelete, Path: "/keys/{id}", Summary: "Revoke an API key", Tags: tags, Security: needs(auth.KeysWrite),
		Description: "From the answer on the key opens nothing. Its record stays.", DefaultStatus: http.StatusNoContent,
	}, s.revokeKey, ofStore, failures{errdefs.NotFound})
}

func keyView(k auth.Key) hyperfleet.Key {
	v := hyperfleet.Key{
		ID: string(k.ID), Name: k.Name, KeyPrefix: k.Prefix, Scopes: make([]string, len(k.Scopes)),
		CreatedAt: wireTime(k.CreatedAt), ExpiresAt: optionalTime(k.ExpiresAt), LastUsedAt: optionalTime(k.LastUsedAt), RevokedAt: optionalTime(k.RevokedAt),
	}
	for i, s := range k.Scopes {
		v.Scopes[i] = string(s)
	}
	return v
}

// optionalTime is nil for a time that has not come.
func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = wireTime(t)
	return &t
}

type createKeyInput struct {
	Body hyperfleet.CreateKeyRequest
}

func (s *Server) createKey(ctx context.Context, in *createKeyInput) (*response[hyperfleet.CreatedKey], error) {
	req := auth.CreateRequest{Name: in.Body.Name}
	if len(in.Body.Scopes) == 0 {
		req.Scopes = auth.Scopes{auth.All}
	}
	for _, name := range in.Body.Scopes {
		scope, err := auth.ParseScope(name)
		if err != nil {
			return nil, err
		}
		req.Scopes = append(req.Scopes, scope)
	}
	if in.Body.ExpiresAt != nil {
		req.ExpiresAt = *in.Body.ExpiresAt
	}
	by, _ := auth.CallerFrom(ctx) // authorize put it there; nobody may do nothing
	key, secret, err := s.cfg.Keys.Create(ctx, by, req)
	if err != nil {
		return nil, err
	}
	return &response[hyperfleet.CreatedKey]{hyperfleet.CreatedKey{Key: keyView(key), Secret: secret.Reveal()}}, nil
}

type listKeysInput struct {
	Accept string `header:"Accept" doc:"application/vnd.hyperfleet.nested+json for an object with the total"`
	Limit  int    `query:"limit" minimum:"0" doc:"At most so many; 0 means all"`
	Offset int    `query:"offset" minimum:"0"`
}

func (s *Server) listKeys(ctx context.Context, in *listKeysInput) (*listOutput, error) {
	list, total, err := s.cfg.Keys.List(ctx, in.Limit, in.Offset)
	if err != nil {
		return nil, err
	}
	views := make([]hyperfleet.Key, len(list))
	for i, k := range list {
		views[i] = keyView(k)
	}
	out := &listOutput{Total: strconv.Itoa(total), ContentType: mediaJSON, Body: views}
	if wantsNested(in.Accept) {
		out.ContentType, out.Body = mediaNested, page[hyperfleet.Key]{views, total, in.Limit, in.Offset}
	}
	return out, nil
}

// keyParam names a key by its id.
type keyParam struct {
	ID string `path:"id" doc:"Id of the key, not the key itself"`
}

func (s *Server) getKey(ctx context.Context, in *keyParam) (*response[hyperfleet.Key], error) {
	key, err := s.cfg.Keys.Get(ctx, auth.KeyID(in.ID))
	if err != nil {
		return nil, err
	}
	return &response[hyperfleet.Key]{keyView(key)}, nil
}

func (s *Server) revokeKey(ctx context.Context, in *keyParam) (*struct{}, error) {
	return nil, s.cfg.Keys.Revoke(ctx, auth.KeyID(in.ID))
}
