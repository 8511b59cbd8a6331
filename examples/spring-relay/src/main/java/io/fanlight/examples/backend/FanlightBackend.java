package io.fanlight.examples.backend;

import java.io.IOException;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.fanlight.Fanlight;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.http.HttpStatus;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RequestHeader;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.client.HttpClientErrorException;
import org.springframework.web.client.RestClient;
import org.springframework.web.server.ResponseStatusException;

/** Says who may connect, answers messages, hears of disconnects, publishes. */
@RestController
class FanlightBackend {

  private final String secret;
  private final ObjectMapper json;
  private final RestClient api;

  FanlightBackend(
      @Value("${fanlight.webhook-secret}") String secret,
      @Value("${fanlight.api}") String api,
      @Value("${fanlight.api-key}") String key,
      ObjectMapper json,
      RestClient.Builder builder) {
    // Ends it here, rather than to take what anybody has signed.
    Fanlight.webhookKey(secret);
    this.secret = secret;
    this.json = json;
    this.api = builder.baseUrl(api).defaultHeader("Authorization", "Bearer " + key).build();
  }

  @PostMapping("/fanlight")
  Map<String, ?> webhook(
      @RequestHeader(name = "webhook-id", required = false) String id,
      @RequestHeader(name = "webhook-timestamp", required = false) String timestamp,
      @RequestHeader(name = "webhook-signature", required = false) String signatures,
      @RequestBody byte[] body)
      throws IOException {
    if (!Fanlight.isGenuine(id, timestamp, signatures, body, secret, Instant.now())) {
      throw new ResponseStatusException(HttpStatus.UNAUTHORIZED, "no good signature");
    }
    try {
      return answer(id, json.readTree(body));
    } catch (HttpClientErrorException error) {
      int status = error.getStatusCode().value();
      if (status != 400 && status != 413 && status != 422) {
        throw error;
      }
      // What the server API takes from nobody, such as a message that is too large, is no failure of
      // this backend: the client is told.
      JsonNode problem = json.readTree(error.getResponseBodyAsByteArray());
      return refuse(problem.path("code").asText(), problem.path("detail").asText());
    }
  }

  private Map<String, ?> answer(String id, JsonNode event) {
    String user = event.path("user").asText(null);
    return switch (event.path("type").asText()) {
      case "connect" -> user == null || user.equals("mallory")
          ? Map.of("allow", false, "reason", "not welcome")
          : Map.of("allow", true);
      case "message" -> greet(id, user, event.path("data").path("text"));
      case "disconnected" -> {
        // Of one session; its user may have others. Told again until this succeeds.
        publish("/topic/greetings", Map.of("left", String.valueOf(user)), id);
        yield Map.of();
      }
      default -> Map.of();
    };
  }

  private Map<String, ?> greet(String id, String user, JsonNode text) {
    if (!text.isTextual()) {
      return refuse("bad_greeting", "`text` is missing");
    }
    // To all, under the webhook's own id: a retry, whose bytes are the same, publishes nothing twice.
    publish("/topic/greetings", new TreeMap<>(Map.of("from", user, "text", text)), id);
    // To the session that sent it. Or nothing but `reply`, where the route has a `send_to`.
    Map<String, ?> data = Map.of("heard", text);
    return Map.of("send", List.of(Map.of("to", "/user/queue/replies", "only", "session", "data", data)));
  }

  private static Map<String, ?> refuse(String code, String message) {
    return Map.of("error", Map.of("code", code, "message", message));
  }

  /** As convertAndSendToUser: to all sessions of a user, wherever they are. Once for each key. */
  void sendToUser(String user, String to, Object data, String key) {
    api.post().uri("/users/{user}/messages", user).header("Idempotency-Key", key)
        .body(Map.of("to", to, "data", data)).retrieve().toBodilessEntity();
  }

  /** As convertAndSend. Once for each key within five minutes. */
  void publish(String to, Object data, String key) {
    api.post().uri("/publish").header("Idempotency-Key", key)
        .body(Map.of("to", to, "data", data)).retrieve().toBodilessEntity();
  }
}
