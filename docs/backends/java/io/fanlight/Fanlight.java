package io.fanlight;

import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.time.DateTimeException;
import java.time.Duration;
import java.time.Instant;
import java.util.Base64;
import java.util.Map;
import java.util.TreeMap;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/** What a backend does with Fanlight: check its webhooks, publish, mint tokens. */
public final class Fanlight {
    private static final HttpClient HTTP = HttpClient.newHttpClient();

    /** What webhooks are signed with. A secret that is missing or short would let anybody sign them. */
    public static byte[] webhookKey(String secret) {
        String text = secret == null ? "" : secret;
        byte[] key = text.startsWith("whsec_")
            ? Base64.getDecoder().decode(text.substring(6))
            : text.getBytes(StandardCharsets.UTF_8);
        if (key.length < 24) {
            throw new IllegalArgumentException("the webhooks' secret is missing, or has fewer than 24 bytes");
        }
        return key;
    }

    /** Whether a webhook comes from the gateway, unchanged and just now (Standard Webhooks). */
    public static boolean isGenuine(
            String id, String timestamp, String signatures, byte[] body, String secret, Instant now) {
        try {
            long seconds = Long.parseLong(timestamp);
            Duration age = Duration.between(Instant.ofEpochSecond(seconds), now).abs();
            if (age.compareTo(Duration.ofMinutes(5)) > 0) return false;
            byte[] head = (id + "." + timestamp + ".").getBytes(StandardCharsets.UTF_8);
            byte[] signed = ByteBuffer.allocate(head.length + body.length).put(head).put(body).array();
            byte[] expected = ("v1," + Base64.getEncoder().encodeToString(hmac(webhookKey(secret), signed))).getBytes();
            // There are several while a secret is being replaced by another.
            for (String given : signatures.split(" ")) {
                if (MessageDigest.isEqual(given.getBytes(), expected)) return true;
            }
            return false;
        } catch (NumberFormatException | DateTimeException | NullPointerException badHeader) {
            return false;
        }
    }

    /** What the server API takes from nobody, such as a message that is too large: no use in trying again. */
    public static final class Refused extends Exception {
        private static final long serialVersionUID = 1;
        public final int status;
        public final String code;

        Refused(int status, String code, String detail) {
            super(detail);
            this.status = status;
            this.code = code;
        }
    }

    /** Publishes once for each key within five minutes, so whoever gets no answer tries again. */
    public static String publish(String api, String apiKey, String to, Object data, String key)
            throws IOException, InterruptedException, Refused {
        var request = HttpRequest.newBuilder(URI.create(api + "/publish"))
            .header("authorization", "Bearer " + apiKey)
            .header("content-type", "application/json")
            .header("idempotency-key", key)
            .timeout(Duration.ofSeconds(5))
            .POST(HttpRequest.BodyPublishers.ofString(Json.write(Map.of("to", to, "data", data))))
            .build();
        var response = HTTP.send(request, BodyHandlers.ofString());
        int status = response.statusCode();
        if (status == 400 || status == 413 || status == 422) throw refused(status, response.body());
        if (status != 200) throw new IOException(status + ": " + response.body());
        return response.body();
    }

    private static Refused refused(int status, String problem) {
        try {
            Object json = Json.read(problem);
            return new Refused(status, String.valueOf(Json.get(json, "code")), String.valueOf(Json.get(json, "detail")));
        } catch (IllegalArgumentException noJson) {
            return new Refused(status, "refused", "the server API said " + status);
        }
    }

    /** A token (JWT, HS256) for a user that is good for so long; `claims` are put in beside. */
    public static String mintToken(String user, Map<String, ?> claims, Duration lifetime, String secret) {
        var all = new TreeMap<String, Object>(claims);
        all.put("sub", user);
        all.put("exp", Instant.now().plus(lifetime).getEpochSecond());
        var encoder = Base64.getUrlEncoder().withoutPadding();
        String head = encoder.encodeToString("{\"alg\":\"HS256\",\"typ\":\"JWT\"}".getBytes());
        String signed = head + "." + encoder.encodeToString(Json.write(all).getBytes(StandardCharsets.UTF_8));
        return signed + "." + encoder.encodeToString(hmac(secret.getBytes(StandardCharsets.UTF_8), signed.getBytes()));
    }

    public static byte[] hmac(byte[] key, byte[] data) {
        try {
            Mac mac = Mac.getInstance("HmacSHA256");
            mac.init(new SecretKeySpec(key, "HmacSHA256"));
            return mac.doFinal(data);
        } catch (GeneralSecurityException error) {
            throw new IllegalStateException("every JDK has HmacSHA256", error);
        }
    }
}
