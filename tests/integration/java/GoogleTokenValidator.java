import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.Set;
import javax.security.auth.callback.Callback;
import javax.security.auth.login.AppConfigurationEntry;
import org.apache.kafka.common.security.auth.AuthenticateCallbackHandler;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerToken;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallback;

/** A mock of what Managed Service for Apache Kafka checks: the form of the token, its life, and the access token. */
public class GoogleTokenValidator implements AuthenticateCallbackHandler {
  private String accessToken;

  @Override
  public void configure(Map<String, ?> configs, String mechanism, List<AppConfigurationEntry> entries) {
    accessToken = (String) entries.get(0).getOptions().get("access_token");
  }

  @Override
  public void handle(Callback[] callbacks) throws IOException {
    for (Callback callback : callbacks) {
      if (callback instanceof OAuthBearerValidatorCallback) {
        validate((OAuthBearerValidatorCallback) callback);
      }
    }
  }

  private void validate(OAuthBearerValidatorCallback callback) throws IOException {
    String token = callback.tokenValue();
    String[] parts = token.split("\\.");
    if (parts.length != 3) {
      callback.error("invalid_token", null, null);
      return;
    }
    JsonNode header = new ObjectMapper().readTree(decode(parts[0]));
    JsonNode claims = new ObjectMapper().readTree(decode(parts[1]));
    long expires = claims.path("exp").asLong() * 1000;
    long issued = claims.path("iat").asLong() * 1000;
    if (!header.path("alg").asText().equals("GOOG_OAUTH2_TOKEN")
        || !claims.path("iss").asText().equals("Google")
        || !claims.path("scope").asText().equals("kafka")
        || expires < System.currentTimeMillis()
        || !decode(parts[2]).equals(accessToken)) {
      callback.error("invalid_token", null, null);
      return;
    }
    String subject = claims.path("sub").asText();
    callback.token(
        new OAuthBearerToken() {
          public String value() {
            return token;
          }

          public Set<String> scope() {
            return Set.of("kafka");
          }

          public long lifetimeMs() {
            return expires;
          }

          public String principalName() {
            return subject;
          }

          public Long startTimeMs() {
            return issued;
          }
        });
  }

  private static String decode(String part) {
    return new String(Base64.getUrlDecoder().decode(part), StandardCharsets.UTF_8);
  }

  @Override
  public void close() {}
}
