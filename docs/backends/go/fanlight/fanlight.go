// Package fanlight is what a backend does with Fanlight: check its webhooks, publish, mint tokens.
package fanlight

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// WebhookKey is what webhooks are signed with. A secret that is missing or short would let anybody
// sign them.
func WebhookKey(secret string) ([]byte, error) {
	key := []byte(secret)
	if encoded, is := strings.CutPrefix(secret, "whsec_"); is {
		var err error
		if key, err = base64.StdEncoding.DecodeString(encoded); err != nil {
			return nil, errors.New("the webhooks' secret is no base64 behind whsec_")
		}
	}
	if len(key) < 24 {
		return nil, errors.New("the webhooks' secret is missing, or has fewer than 24 bytes")
	}
	return key, nil
}

// Verify checks that a webhook comes from the gateway, unchanged and just now (Standard Webhooks).
func Verify(header http.Header, body []byte, secret string, now time.Time) error {
	seconds, err := strconv.ParseInt(header.Get("webhook-timestamp"), 10, 64)
	if err != nil || now.Sub(time.Unix(seconds, 0)).Abs() > 5*time.Minute {
		return errors.New("webhook-timestamp is missing, or too far from now")
	}
	key, err := WebhookKey(secret)
	if err != nil {
		return err
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%d.%s", header.Get("webhook-id"), seconds, body)
	expected := mac.Sum(nil)
	// There are several while a secret is being replaced by another.
	for _, signature := range strings.Fields(header.Get("webhook-signature")) {
		given, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(signature, "v1,"))
		if strings.HasPrefix(signature, "v1,") && err == nil && hmac.Equal(given, expected) {
			return nil
		}
	}
	return errors.New("no signature is good")
}

// Refused is what the server API takes from nobody, such as a message that is too large: no use in
// trying again.
type Refused struct {
	Status       int
	Code, Detail string
}

func (r *Refused) Error() string { return r.Detail }

// API is the server API, for example at http://127.0.0.1:8081/api/v1.
type API struct{ URL, Key string }

var client = &http.Client{Timeout: 5 * time.Second}

// Publish publishes once for each key within five minutes, so whoever gets no answer tries again.
func (api API) Publish(to string, data any, key string) error {
	body, err := json.Marshal(map[string]any{"to": to, "data": data})
	if err != nil {
		return err
	}
	request, err := http.NewRequest(http.MethodPost, api.URL+"/publish", bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+api.Key)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Idempotency-Key", key)
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	problem, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
	switch response.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		refused := &Refused{response.StatusCode, "refused", "the server API said " + response.Status}
		json.Unmarshal(problem, refused)
		return refused
	}
	return fmt.Errorf("%s: %s", response.Status, problem)
}

// MintToken makes a token (JWT, HS256) for user that is good for so long.
func MintToken(user string, lifetime time.Duration, secret string) (string, error) {
	claims, err := json.Marshal(map[string]any{"sub": user, "exp": time.Now().Add(lifetime).Unix()})
	if err != nil {
		return "", err
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode(claims)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(signed))
	return signed + "." + encode(mac.Sum(nil)), nil
}
