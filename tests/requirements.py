"""What Twogate must do, where that is written, and the tests that show it.

`tests/test_requirements.py` holds manifest and tests to each other. A source is a row of the requirements (R-xx), a
section of an RFC, or a page of the Model Context Protocol's specification with its version. Tests stand here by their
node ids, below `tests/`.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Behaviour(NamedTuple):
    """One thing that must hold: the row it belongs to, its source, what it is, and the tests that fail without it."""

    row: str
    source: str
    what: str
    tests: tuple[str, ...]


ROWS: Final = (
    "R-01",
    "R-06",
    "R-08",
    "R-09",
    "R-10",
    "R-11",
    "R-12",
    "R-20",
    "R-21",
    "R-22",
    "R-23",
    "R-24",
    "R-25",
    "R-26",
    "R-30",
    "R-31",
    "R-32",
    "R-33",
    "R-34",
    "R-35",
    "R-36",
    "R-37",
    "R-38",
    "R-40",
    "R-42",
    "R-43",
    "R-44",
    "R-45",
    "R-46",
    "R-61",
    "R-70",
    "R-73",
    "R-90",
    "R-93",
)
"""The rows that the manifest must cover. A row is added with the first behaviour that shows it."""

_CORE = "unit/core"
_SHARED = "attacks/test_shared_store.py"
_FLOWS = "unit/flows"
_PINS = "attacks/test_pins.py"
_SCHEMAS = "attacks/test_argument_schemas.py"
_SECRETS = "attacks/test_upstream_secrets.py"
_TOKENS = "attacks/test_review_tokens.py"
_POLICIES = "attacks/test_policies.py"
_REVIEWED_PEOPLE = "attacks/test_review_people.py"

BEHAVIOURS: Final = (
    # R-01: the resource server.
    Behaviour(
        "R-01",
        "R-01",
        "the checks of a token run in their documented order",
        (
            f"{_FLOWS}/test_authenticate.py::test_a_token_with_several_defects_is_refused_for_the_first",
            "attacks/test_tokens.py::test_a_bad_token_is_refused_and_the_upstream_sees_nothing",
        ),
    ),
    Behaviour(
        "R-01",
        "R-01",
        "the caller's token is never sent upstream",
        (
            "attacks/test_tokens.py::test_the_callers_token_never_goes_upstream",
            f"{_FLOWS}/test_pipeline.py::test_the_upstream_gets_the_parsed_message_anew_and_no_header_of_the_caller",
        ),
    ),
    Behaviour(
        "R-01",
        "R-01",
        "tokens longer-lived than the issuer's limit are refused",
        (f"{_FLOWS}/test_authenticate.py::test_times",),
    ),
    Behaviour(
        "R-01",
        "RFC 7515 appendix A",
        "the standard's own signatures verify, and no other spelling or algorithm of them",
        (
            f"{_CORE}/jose/test_jwt.py::test_the_examples_of_rfc_7515_verify",
            f"{_CORE}/jose/test_jwt.py::test_the_examples_of_rfc_7515_without_a_public_key_signature_are_refused",
            f"{_CORE}/jose/test_jwt.py::test_no_single_changed_character_of_an_example_verifies",
        ),
    ),
    Behaviour(
        "R-01",
        "RFC 8725 section 3.1",
        "algorithms come from configuration and key, never from the token alone",
        (
            f"{_CORE}/jose/test_jwt.py::test_algorithms_that_do_not_exist_here_are_refused",
            f"{_CORE}/jose/test_jwt.py::test_an_hmac_keyed_with_the_public_key_is_refused",
            f"{_CORE}/jose/test_jwt.py::test_an_empty_set_of_algorithms_is_a_mistake_of_ours",
        ),
    ),
    Behaviour(
        "R-01",
        "RFC 8725 section 3.10",
        "keys come from configuration, never from the token's header",
        (f"{_CORE}/jose/test_jwt.py::test_a_header_parameter_that_is_not_on_the_list_is_refused",),
    ),
    Behaviour(
        "R-01",
        "RFC 7517 section 5",
        "only public signature keys of a set are used",
        (f"{_CORE}/jose/test_keys.py::test_any_other_key_is_skipped_and_takes_no_good_key_with_it",),
    ),
    Behaviour(
        "R-01",
        "RFC 8707 section 2; MCP 2025-11-25, Authorization, Token Handling",
        "a token is good for this very resource only",
        (
            f"{_FLOWS}/test_authenticate.py::test_any_other_audience_is_refused",
            "attacks/test_tokens.py::test_a_token_for_one_server_fails_at_another_with_a_warm_cache",
        ),
    ),
    Behaviour(
        "R-01",
        "RFC 8414 section 3.3",
        "metadata that does not name the very issuer is not used",
        (f"{_FLOWS}/test_issuers.py::test_then_by_openid_connect_if_the_first_does_not_name_this_very_issuer",),
    ),
    Behaviour(
        "R-01",
        "RFC 9728 section 5.1; RFC 6750 section 3",
        "a refusal that a token would cure is challenged with `resource_metadata` and scopes",
        (
            "unit/web/test_gateway.py::test_a_missing_credential_is_challenged_with_metadata_and_every_scope",
            "unit/web/test_errors.py::test_a_bearer_challenge_comes_with_every_refusal_that_another_token_would_cure",
        ),
    ),
    Behaviour(
        "R-01",
        "RFC 9728 section 3",
        "each resource has its metadata",
        ("unit/web/test_authserver.py::TestDocuments::test_each_server_has_its_own_resource_metadata",),
    ),
    Behaviour(
        "R-01",
        "RFC 7800 section 3.1",
        "a token that is bound to a proof is refused without one",
        (f"{_FLOWS}/test_authenticate.py::test_a_bound_token_is_refused_whatever_it_is_bound_to",),
    ),
    Behaviour(
        "R-01",
        "RFC 6750 section 2; RFC 9700 section 4.3.2",
        "one bearer token in the header, none in the query, and nothing else beside it",
        (
            f"{_FLOWS}/test_credential.py::test_anything_else_in_authorization_is_refused",
            f"{_FLOWS}/test_credential.py::test_another_credential_or_proof_is_refused_not_ignored",
            "attacks/test_tokens.py::test_a_token_in_the_query_is_refused",
        ),
    ),
    Behaviour(
        "R-01",
        "RFC 8725 sections 3.1 and 3.2",
        "each algorithm verifies with keys of its own type, curve, size and name, and with no other",
        (
            "attacks/test_external_issuers.py::test_each_algorithm_is_verified",
            "attacks/test_external_issuers.py::test_a_confusing_token_is_refused_and_the_upstream_sees_nothing",
            f"{_CORE}/jose/test_keys.py::test_there_are_eight_points_of_small_order_and_each_is_skipped_in_every_spelling",
        ),
    ),
    Behaviour(
        "R-01",
        "RFC 8725 section 3.12; OpenID Connect Core section 2",
        "an ID token, a refresh token or a logout token is no access token, whatever its type",
        (
            f"{_CORE}/jose/test_kind.py::test_what_the_issuer_says_in_a_claim_must_be_an_access_token",
            f"{_CORE}/jose/test_kind.py::test_a_claim_of_other_tokens_is_refused_in_a_token_that_does_not_say_its_kind",
            f"{_CORE}/jose/test_kind.py::test_a_token_for_its_own_client_is_refused_unless_it_says_its_kind",
            "peers/test_oidc_provider.py::test_what_is_altered_or_meant_for_something_else_is_refused",
        ),
    ),
    Behaviour(
        "R-01",
        "R-01; DESIGN decision 4",
        "an issuer's own name for a resource means that resource, for that issuer",
        (
            f"{_FLOWS}/test_authenticate.py::test_an_issuers_own_name_for_a_resource_means_no_other",
            "attacks/test_external_issuers.py::test_the_issuers_own_name_of_a_resource_opens_that_resource_only",
        ),
    ),
    Behaviour(
        "R-01",
        "R-01; DESIGN decision 2",
        "of a list of roles those count that the issuer may assert; without a user they only repeat the agent's",
        (
            f"{_FLOWS}/test_authenticate.py::test_with_a_user_the_roles_that_the_issuer_may_assert_are_the_users",
            f"{_FLOWS}/test_authenticate.py::test_without_user_roles_without_the_registered_one_are_refused",
            "attacks/test_external_issuers.py::test_a_users_roles_never_lift_what_the_agents_role_forbids",
        ),
    ),
    Behaviour(
        "R-01",
        "R-01",
        "a real OpenID provider's access tokens pass, and only those",
        (
            "peers/test_oidc_provider.py::test_its_access_tokens_pass_with_each_algorithm",
            "peers/test_oidc_provider.py::test_who_logged_in_is_the_user_with_the_roles_that_the_provider_may_give",
            "peers/test_oidc_provider.py::test_a_real_process_waits_for_it_and_then_lets_its_tokens_in",
        ),
    ),
    Behaviour(
        "R-01",
        "DESIGN decision 1",
        "there is a user only where the operator points at one",
        (f"{_FLOWS}/test_authenticate.py::test_there_is_a_user_only_where_the_operator_points_at_one",),
    ),
    Behaviour(
        "R-01",
        "DESIGN decision 2",
        "an issuer asserts only its own tenants and roles, with its own keys",
        (
            "attacks/test_calls.py::test_an_issuer_may_assert_only_its_own_tenants_and_roles",
            f"{_FLOWS}/test_authenticate.py::test_the_key_of_one_issuer_does_not_speak_for_another",
        ),
    ),
    Behaviour(
        "R-01",
        "R-01",
        "the embedded authorization server's tokens and clients are held to the same",
        (
            "unit/web/test_authserver.py::TestTheMcpSdksOwnClients::test_they_discover_authenticate_and_are_let_in",
            "attacks/test_token_endpoint.py::TestAssertions::test_an_assertion_works_once",
        ),
    ),
    Behaviour(
        "R-01",
        "R-22; OWASP SSRF",
        "key documents are fetched without reaching inside",
        (
            "attacks/test_ssrf.py::test_a_name_that_resolves_to_an_internal_address_is_refused",
            f"{_FLOWS}/test_issuers.py::test_an_address_that_metadata_names_on_another_origin_is_not_trusted_like_the_configuration",
        ),
    ),
    # R-08: introspection at an external issuer.
    Behaviour(
        "R-08",
        "RFC 7662",
        "an issuer is asked about its tokens, and what it says is checked as a token's claims are",
        (
            "attacks/test_opaque_tokens.py::test_an_active_token_is_good_and_we_ask_as_ourselves",
            "attacks/test_opaque_tokens.py::test_whatever_the_issuer_says_is_checked_as_a_tokens_claims_are",
            "attacks/test_opaque_tokens.py::test_an_answer_that_is_not_one_refuses_the_call",
            "attacks/test_opaque_tokens.py::test_with_both_a_token_needs_a_good_signature_and_the_issuers_word",
        ),
    ),
    Behaviour(
        "R-08",
        "R-08",
        "its word is kept for seconds, and a token that it took back is refused then",
        (
            (
                "attacks/test_opaque_tokens.py::"
                "test_a_token_that_was_taken_back_at_the_issuer_is_refused_once_its_word_is_old"
            ),
        ),
    ),
    # R-09: proof of possession at the resource server.
    Behaviour(
        "R-09",
        "RFC 9449 section 7",
        "a token that is bound to a key is good only with a proof by it, for this call and token, once, with our nonce",
        (
            "attacks/test_bound_tokens.py::test_a_bound_token_with_a_proof_by_its_key_is_good",
            "attacks/test_bound_tokens.py::test_a_stolen_bound_token_is_worth_nothing_without_the_key",
            "attacks/test_bound_tokens.py::test_a_proof_is_good_once",
            "attacks/test_bound_tokens.py::test_of_many_at_once_with_one_proof_one_wins",
            "attacks/test_bound_tokens.py::test_a_proof_for_something_else_is_refused",
            "attacks/test_bound_tokens.py::test_a_proof_needs_our_nonce_and_is_told_it",
            "attacks/test_bound_tokens.py::test_sessions_take_bound_tokens_the_same_way",
        ),
    ),
    Behaviour(
        "R-09",
        "RFC 8705 section 3",
        "a token that is bound to a client certificate is good only on connections with that very certificate",
        (
            "attacks/test_certificate_bound.py::test_a_token_is_good_on_every_connection_with_its_certificate",
            "attacks/test_certificate_bound.py::test_a_stolen_token_is_worth_nothing_without_the_certificate",
            "attacks/test_certificate_bound.py::test_another_certificate_of_the_same_name_or_key_is_another_one",
            "attacks/test_certificate_bound.py::test_a_certificate_in_a_header_proves_nothing",
            (
                "attacks/test_certificate_bound.py::"
                "test_a_session_is_not_resumed_with_the_certificate_of_an_earlier_connection"
            ),
            (
                "attacks/test_certificate_bound.py::"
                "test_a_certificate_that_expires_on_an_open_connection_is_good_no_longer"
            ),
            "attacks/test_certificate_bound.py::test_an_opaque_token_can_be_bound_to_a_certificate",
            "attacks/test_certificate_bound.py::test_sessions_take_bound_tokens_the_same_way",
            "unit/web/test_server.py::test_connections_end_when_other_client_certificates_are_good",
        ),
    ),
    Behaviour(
        "R-09",
        "RFC 7800 section 3.1; DESIGN decision 3",
        "exactly what a token is bound to must be proven: nothing less, nothing else, nothing beside it",
        (
            f"{_CORE}/test_oauth_confirmation.py::test_exactly_what_a_token_is_bound_to_must_be_proven",
            f"{_CORE}/test_oauth_confirmation.py::test_what_is_not_understood_is_refused",
            "attacks/test_certificate_bound.py::test_a_token_that_is_bound_to_a_key_and_a_certificate_needs_both",
            (
                "attacks/test_certificate_bound.py::"
                "test_a_certificate_beside_a_token_that_is_not_bound_to_it_is_refused_not_ignored"
            ),
        ),
    ),
    # R-11: tokens that are good for one request.
    Behaviour(
        "R-11",
        "R-11; RFC 7519 section 4.1.7",
        "a token of an issuer whose tokens are good once is good for one request, at every replica and server together",
        (
            "attacks/test_one_time_tokens.py::test_a_token_is_good_for_one_request",
            "attacks/test_one_time_tokens.py::test_of_twenty_at_once_one_wins",
            "attacks/test_one_time_tokens.py::test_of_twenty_at_once_at_two_replicas_one_wins",
            "attacks/test_one_time_tokens.py::test_a_token_for_several_resources_is_good_at_one_of_them",
            "attacks/test_one_time_tokens.py::test_what_counts_is_the_name_of_the_token_at_its_issuer",
            "attacks/test_one_time_tokens.py::test_a_token_that_cannot_be_told_from_others_is_refused",
            "attacks/test_one_time_tokens.py::test_our_own_tokens_are_good_once_where_the_setting_says_so",
            "attacks/test_one_time_tokens.py::test_a_subject_token_can_be_exchanged_once",
            "attacks/test_one_time_tokens.py::test_without_the_store_no_such_token_is_good",
        ),
    ),
    Behaviour(
        "R-11",
        "R-11",
        "only who is proven uses a token up, and what belongs to one request is one use",
        (
            "attacks/test_one_time_tokens.py::test_who_is_refused_does_not_use_up_the_token",
            "attacks/test_one_time_tokens.py::test_being_told_the_nonce_or_a_thiefs_try_does_not_use_up_the_token",
            "attacks/test_one_time_tokens.py::test_a_batch_is_one_request",
            "attacks/test_one_time_tokens.py::test_a_caller_that_is_proven_again_meanwhile_is_no_second_request",
        ),
    ),
    # R-10: agents that act for users, at the resource server.
    Behaviour(
        "R-10",
        "RFC 8693 section 4.1; DESIGN decision 5",
        "where an agent acts for a user, what is called must be allowed to both",
        (
            "attacks/test_delegation.py::test_what_both_may_is_called_and_both_are_named",
            "attacks/test_delegation.py::test_what_the_user_may_not_the_agent_may_not_for_them",
            "attacks/test_delegation.py::test_what_the_agent_may_not_no_user_lets_it",
            "attacks/test_delegation.py::test_what_our_own_server_exchanges_names_both_to_gate_one",
        ),
    ),
    Behaviour(
        "R-10",
        "RFC 8693 sections 4.1 and 4.4",
        "whoever acts is the agent, by its own issuer's name, and acts for a user; earlier actors decide nothing",
        (
            "attacks/test_delegation.py::test_where_the_agent_is_named_elsewhere_the_actor_must_be_the_same",
            "attacks/test_delegation.py::test_whoever_acts_acts_for_a_user_and_not_for_nobody",
            "attacks/test_delegation.py::test_the_actor_of_another_issuer_is_somebody_else",
            "attacks/test_delegation.py::test_earlier_actors_decide_nothing_and_are_few",
            "attacks/test_delegation.py::test_an_actor_that_is_not_one_refuses_the_token",
            "attacks/test_delegation.py::test_may_act_is_no_actor",
        ),
    ),
    # R-12: caching.
    Behaviour(
        "R-12",
        "RFC 9111 section 4.2.1",
        "keys are kept as long as their answer says, within bounds",
        (f"{_FLOWS}/test_issuers.py::test_keys_are_kept_as_long_as_the_answer_says_within_bounds",),
    ),
    Behaviour(
        "R-12",
        "R-12",
        "an unknown `kid` fetches again, at a limited rate",
        (
            f"{_FLOWS}/test_issuers.py::test_an_unknown_kid_fetches_the_keys_at_once_but_not_twice_in_half_a_minute",
            "attacks/test_tokens.py::test_a_flood_of_unknown_key_ids_fetches_the_keys_once",
        ),
    ),
    Behaviour(
        "R-12",
        "R-12",
        "a real issuer's new key is found, its old one forgotten, and its down time is no acceptance",
        (
            "peers/test_oidc_provider.py::test_a_new_key_is_found_and_an_old_one_is_forgotten",
            "peers/test_oidc_provider.py::test_while_it_is_down_its_keys_serve_as_long_as_they_are_fresh_and_no_longer",
        ),
    ),
    Behaviour(
        "R-12",
        "R-12",
        "verified tokens are kept five minutes at most, and never past `exp`",
        (
            f"{_FLOWS}/test_authenticate.py::test_a_verified_token_is_verified_again_after_five_minutes",
            f"{_FLOWS}/test_authenticate.py::test_the_cache_never_outlives_the_token",
            "attacks/test_tokens.py::test_a_cached_token_is_refused_once_it_expired",
        ),
    ),
    Behaviour(
        "R-12",
        "R-12, R-61",
        "no cache outlives a revocation",
        (
            f"{_FLOWS}/test_authenticate.py::test_a_changed_registry_is_looked_at_again_with_a_cached_token",
            f"{_FLOWS}/test_sessions.py::test_a_session_ended_while_it_was_being_read_is_not_remembered_as_live",
            "attacks/test_calls.py::test_a_disabled_agent_is_refused_at_the_next_request",
        ),
    ),
    # R-30: roles.
    Behaviour(
        "R-30",
        "R-30",
        "the default matrix ships, cell by cell",
        (
            f"{_CORE}/test_access.py::test_the_shipped_matrix_is_the_one_of_the_requirements",
            f"{_CORE}/test_access.py::test_the_matrix_covers_every_class_and_every_shipped_role",
        ),
    ),
    Behaviour(
        "R-30",
        "R-30",
        "denied unless every rule allows; narrowing never widens",
        (
            f"{_CORE}/test_access.py::test_a_call_is_decided_by_the_first_rule_that_refuses_it",
            f"{_CORE}/test_access.py::test_what_is_allowed_is_allowed_by_every_rule_by_itself",
            f"{_CORE}/test_access.py::test_narrowing_never_makes_a_decision_milder",
        ),
    ),
    Behaviour(
        "R-30",
        "DESIGN decision 5",
        "the most specific entry classifies a resource, and there is never a choice",
        (
            f"{_CORE}/test_entry.py::test_the_own_entry_classifies_else_the_pattern_that_begins_longest",
            f"{_CORE}/test_entry.py::test_patterns_that_begin_alike_and_meet_are_ambiguous",
            "unit/test_config_resources.py::test_patterns_of_which_neither_is_more_specific_are_refused",
        ),
    ),
    Behaviour(
        "R-30",
        "RFC 3986 section 6",
        "a pattern is matched by no URI that a server could take for another",
        (
            f"{_CORE}/test_resource_pattern.py::test_what_is_not_plain_is_matched_by_no_wildcard_but_by_an_exact_entry",
            f"{_CORE}/test_resource_pattern.py::test_a_plain_uri_means_the_same_to_every_reader",
            "attacks/test_resource_globs.py::test_another_spelling_reaches_nothing",
        ),
    ),
    Behaviour(
        "R-30",
        "RFC 6570; MCP 2025-11-25, server/resources, Resource Templates",
        "a template is shown and completed only if all that it may expand to is the caller's",
        (
            f"{_CORE}/test_entry.py::test_a_pattern_classifies_a_template_only_if_all_that_it_may_become_is_its_own",
            "attacks/test_resource_globs.py::test_a_template_completes_nothing_that_its_expansions_might_not_be_read",
        ),
    ),
    Behaviour(
        "R-30",
        "R-30, R-33",
        "a tool that needs an operation token does not run without one",
        ("attacks/test_calls.py::test_a_token_tool_is_refused_with_its_own_code",),
    ),
    # R-31: sessions.
    Behaviour(
        "R-31",
        "R-31",
        "a session's tools are the intersection of role and task, and never grow",
        (
            f"{_CORE}/test_access.py::test_a_session_holds_what_role_and_task_both_name_and_nothing_for_unknown_ones",
            f"{_FLOWS}/test_sessions.py::test_a_session_keeps_its_tools_when_the_configuration_grows",
            "stateful/test_sessions_machine.py::TestSessions",
            "stateful/test_session_store.py::test_sessions_on_sqlite_are_as_the_model_says",
            "stateful/test_session_store.py::test_sessions_on_postgresql_are_as_the_model_says",
        ),
    ),
    Behaviour(
        "R-31",
        "DESIGN decision 6",
        "whatever entries come and go, a live session reaches only what it held when it was opened",
        (
            f"{_CORE}/test_access.py::test_whatever_the_configuration_becomes_a_session_reaches_only_what_it_held_when_it_was_opened",
            "attacks/test_resource_globs.py::test_an_open_session_does_not_grow_when_a_stricter_entry_is_taken_out",
            "attacks/test_resource_globs.py::test_an_open_session_does_not_grow_when_an_entry_is_added",
        ),
    ),
    Behaviour(
        "R-31",
        "R-31",
        "declaring task after task does not collect their tools",
        (
            "attacks/test_sessions.py::test_declaring_task_after_task_does_not_collect_their_union",
            "attacks/test_task_union.py::test_declaring_every_task_in_turn_reaches_the_tools_of_the_first_only",
            "attacks/test_review.py::test_an_agent_with_two_issuers_cannot_hold_one_task_through_each",
            f"{_CORE}/test_session.py::test_declaring_a_task_finds_opens_or_refuses",
        ),
    ),
    Behaviour(
        "R-31",
        "R-31",
        "a session is bound to its principal and to an hour at most",
        (
            f"{_CORE}/test_session.py::test_a_session_is_refused_to_others_and_after_its_end",
            f"{_CORE}/test_session.py::test_a_session_lives_an_hour_at_most",
            "attacks/test_sessions.py::test_another_principals_session_is_refused",
        ),
    ),
    Behaviour(
        "R-31",
        "R-31",
        "an unknown task gives no tools",
        (
            "attacks/test_sessions.py::test_an_unknown_task_gives_no_session",
            f"{_FLOWS}/test_admit.py::test_an_unknown_or_second_task_is_refused_and_never_replaced_by_the_default",
        ),
    ),
    # R-32: per call.
    Behaviour(
        "R-32",
        "R-32",
        "everything that acts on something is decided by what it acts on, before anything runs",
        (
            "attacks/test_resource_globs.py::test_every_method_that_takes_a_uri_decides_it_alike",
            f"{_FLOWS}/test_admit.py::test_everything_that_acts_on_something_is_decided_by_what_it_acts_on",
            f"{_FLOWS}/test_pipeline.py::test_a_call_that_gate_two_refuses_is_recorded_before_it_is_answered",
            "attacks/test_calls.py::test_methods_that_nothing_allows_are_refused",
        ),
    ),
    Behaviour(
        "R-32",
        "R-32",
        "a list shows exactly what may be called",
        (
            f"{_CORE}/test_access.py::test_a_list_shows_exactly_what_a_call_would_not_be_refused",
            f"{_FLOWS}/test_answers.py::test_a_list_shows_only_what_is_visible_in_its_order",
            "attacks/test_calls.py::test_a_list_shows_only_what_may_be_called",
        ),
    ),
    Behaviour(
        "R-32",
        "RFC 6750 section 3.1; MCP 2025-11-25, Authorization, Scope Challenge Handling",
        "a scope shortfall is 403 `insufficient_scope` with the scopes that would help",
        (
            "attacks/test_calls.py::test_a_missing_scope_is_challenged_with_the_scopes_that_would_help",
            "unit/web/test_gateway.py::test_a_scope_shortfall_names_only_the_scopes_that_would_help",
        ),
    ),
    Behaviour(
        "R-32",
        "DESIGN decision 11",
        "what a caller may not use and what does not exist cannot be told apart",
        (
            f"{_CORE}/test_errors.py::test_a_tool_outside_the_role_the_task_or_the_world_cannot_be_told_apart",
            "attacks/test_calls.py::test_every_kind_of_refusal_looks_the_same_outside_and_is_exact_inside",
        ),
    ),
    Behaviour(
        "R-32",
        "R-32, R-61",
        "who is cut off while its body arrives reaches nothing",
        (
            "attacks/test_review.py::test_an_agent_that_was_disabled_while_its_body_arrived_reaches_nothing",
            f"{_FLOWS}/test_pipeline.py::test_a_session_that_expired_while_the_body_arrived_is_refused",
        ),
    ),
    Behaviour(
        "R-32",
        "R-36",
        "a tenant reaches its own servers only",
        ("attacks/test_calls.py::test_a_tenant_reaches_its_own_servers_only",),
    ),
    # R-35: Cedar policies.
    Behaviour(
        "R-35",
        "R-35",
        "a policy only narrows: whatever is written, nothing is allowed that was not",
        (
            f"{_POLICIES}::test_a_policy_that_could_widen_cannot_exist",
            f"{_POLICIES}::test_a_gateway_is_not_even_built_with_a_policy_that_could_widen",
            f"{_POLICIES}::test_more_policies_never_allow_what_fewer_forbid",
            f"{_FLOWS}/test_admit_conditions.py::test_what_is_refused_anyway_is_refused_as_ever_and_they_are_not_asked",
            f"{_FLOWS}/test_admit_conditions.py::test_what_needs_an_operation_token_is_judged_before_one_is_asked_for",
        ),
    ),
    Behaviour(
        "R-35",
        "R-35",
        "policies are checked when they are loaded, and one that could not do what it says is refused",
        (
            f"{_POLICIES}::test_a_policy_that_could_not_do_what_it_says_is_refused_at_the_start",
            f"{_POLICIES}::test_a_broken_file_changes_nothing_on_reload",
            "unit/test_config_policies.py::test_every_problem_of_every_file_is_told_with_its_line",
        ),
    ),
    Behaviour(
        "R-35",
        "R-35",
        "policies look at principal, target, arguments, time, address, groups and device posture",
        (
            "unit/adapters/test_cedar.py::test_a_policy_may_look_at",
            f"{_POLICIES}::test_no_spelling_of_an_argument_gets_past_its_policy",
            f"{_POLICIES}::test_an_hour_ends_to_the_second",
            f"{_POLICIES}::test_where_a_call_comes_from_is_the_connections_word",
            f"{_POLICIES}::test_an_ipv4_address_is_itself_however_it_is_written",
            f"{_POLICIES}::test_who_lacks_a_group_is_forbidden_what_only_the_group_may",
            f"{_POLICIES}::test_a_device_is_what_the_issuer_says_of_it",
        ),
    ),
    Behaviour(
        "R-35",
        "R-35",
        "a policy that cannot be evaluated forbids, for each member of a batch, and while gate two is observed",
        (
            f"{_POLICIES}::test_a_policy_whose_evaluation_fails_forbids_beside_others_that_do_not",
            f"{_POLICIES}::test_each_member_of_a_batch_is_judged",
            f"{_POLICIES}::test_policies_forbid_while_gate_two_is_only_observed",
        ),
    ),
    Behaviour(
        "R-35",
        "R-35",
        "an explanation names the policy that denies",
        ("unit/cli/test_explain_policies.py::test_a_denial_names_the_policy",),
    ),
    # R-36: tenants.
    Behaviour(
        "R-36",
        "R-36",
        "no credential of one tenant reaches anything of another, by any method of any version",
        (
            "attacks/test_tenants.py::test_no_method_of_any_version_reaches_a_server_of_another_tenant",
            "attacks/test_tenants.py::test_messages_of_one_tenants_old_stream_cannot_be_posted_by_another",
            "attacks/test_tenants.py::test_a_forged_tenant_claim_makes_nobody_somebody_elses_agent",
            "attacks/test_tenants.py::test_no_session_of_one_tenant_is_one_of_another",
            "attacks/test_tenants.py::test_events_tasks_and_states_of_one_tenant_are_unknown_to_another",
            "attacks/test_tenants.py::test_a_tenants_client_learns_and_changes_nothing_of_anothers_tokens",
            "attacks/test_tenants.py::test_a_tenants_clients_ask_in_vain_for_anothers_resources",
            "attacks/test_tenants.py::test_a_person_of_another_tenant_cannot_consent_for_a_client",
            "attacks/test_tenants.py::test_a_person_of_another_tenant_cannot_decide_on_a_device",
        ),
    ),
    Behaviour(
        "R-36",
        "R-36",
        "a tenant's own tools, roles and tasks are nothing to another tenant",
        (
            "attacks/test_tenants.py::test_what_is_one_tenants_own_is_nothing_to_another_at_a_server_of_both",
            "attacks/test_tenants.py::test_another_tenants_task_is_no_task",
            "attacks/test_tenants.py::test_another_tenants_role_grants_its_bearer_nothing",
            "attacks/test_tenants.py::test_two_tenants_may_give_one_name_to_different_things",
            "unit/test_config_tenants.py::test_a_name_that_is_shared_and_a_tenants_own_is_an_error_with_both_lines",
        ),
    ),
    Behaviour(
        "R-36",
        "DESIGN decision 13",
        "an upstream's session serves the one who opened it: no other tenant, no other user",
        ("attacks/test_tenants.py::test_an_upstream_session_serves_the_one_who_opened_it",),
    ),
    Behaviour(
        "R-36",
        "R-36",
        "what is kept, counted and written down is so for each tenant",
        (
            "attacks/test_tenants.py::test_what_servers_say_of_their_tools_is_kept_for_each_tenant",
            "attacks/test_tenants.py::test_a_tenant_that_uses_its_calls_up_takes_none_of_anothers",
            "unit/adapters/test_upstream_by_tenant.py::test_a_tenant_whose_connections_are_all_busy_holds_no_other_up",
            "attacks/test_tenants.py::test_the_trail_of_one_tenant_holds_nothing_of_another",
            "attacks/test_tenants.py::test_explaining_a_call_goes_by_its_agents_tenant",
        ),
    ),
    Behaviour(
        "R-36",
        "R-36",
        "each message to a server brings the calling tenant's secret, as it is now, or does not go",
        (
            "attacks/test_tenants.py::test_each_server_saw_its_own_tenants_secret_and_no_other",
            f"{_SECRETS}::test_without_its_secret_nothing_of_a_tenants_goes_and_others_go_on",
            f"{_SECRETS}::test_a_reference_that_is_missing_is_no_reason_to_take_another",
            f"{_SECRETS}::test_a_changed_secret_is_used_from_the_next_call_on",
            f"{_SECRETS}::test_each_stream_and_post_of_the_oldest_transport_brings_its_tenants_secret",
            f"{_SECRETS}::test_a_changed_secret_restarts_the_tenants_processes_and_no_others",
        ),
    ),
    Behaviour(
        "R-36",
        "DESIGN decision 13",
        "processes get their secret by a descriptor first, and by the environment only where the operator says so",
        (
            f"{_SECRETS}::test_a_process_finds_its_tenants_secret_in_a_file_without_a_name",
            f"{_SECRETS}::test_a_sandboxed_process_finds_its_secret_too",
            f"{_SECRETS}::test_a_process_gets_the_secret_in_its_environment_where_the_operator_says_so",
        ),
    ),
    Behaviour(
        "R-36",
        "RFC 9110 section 5.5",
        "a secret cannot end the header that it stands in",
        (f"{_SECRETS}::test_what_could_end_a_header_or_is_none_is_no_secret",),
    ),
    Behaviour(
        "R-36",
        "DESIGN decision 22",
        "secrets are sealed for one tenant, and in no file, log, event, error or text of ours",
        (
            f"{_SECRETS}::test_a_sealed_file_in_another_tenants_place_altered_or_of_another_key_opens_nothing",
            f"{_SECRETS}::test_no_error_log_line_event_or_file_holds_a_secret",
            f"{_SECRETS}::test_the_command_keeps_a_secret_that_nothing_shows",
            f"{_SECRETS}::test_what_a_process_says_on_stderr_reaches_the_log_without_its_secret",
        ),
    ),
    Behaviour(
        "R-11",
        "R-11; RFC 9449 section 11.1",
        "what was used at one replica is used at all of them, also when the shared store has lost its memory",
        (
            f"{_SHARED}::test_used_proofs_and_assertions_are_used_at_every_replica",
            f"{_SHARED}::test_of_one_proof_sent_to_both_replicas_at_once_one_gets_through",
            f"{_SHARED}::test_flushing_valkey_does_not_make_used_values_fresh",
            f"{_SHARED}::test_what_lies_in_valkey_names_nobody_and_no_secret",
            "contracts/test_replay_store.py::test_of_redemptions_in_two_processes_one_wins",
        ),
    ),
    # R-37: rate limits.
    Behaviour(
        "R-37",
        "R-37",
        "addresses are limited before authentication; agents, each of their tools, and tenants after it",
        (
            "attacks/test_floods.py::test_an_address_is_limited_before_anything_of_its_request_is_read",
            (
                "attacks/test_floods.py::"
                "test_a_hijacked_agent_runs_a_tool_no_more_often_than_allowed_and_its_other_tools_go_on"
            ),
            f"{_FLOWS}/test_limit.py::test_an_agent_is_limited_over_all_its_tools_and_alone",
            f"{_FLOWS}/test_limit.py::test_a_tenant_is_limited_over_all_its_agents",
            f"{_FLOWS}/test_limit.py::test_a_reload_frees_nobody_unless_the_rate_itself_changed",
        ),
    ),
    Behaviour(
        "R-37",
        "R-37; DESIGN decision 17",
        "limits count over all replicas that share a Redis or Valkey, as they would in one process",
        (
            f"{_SHARED}::test_a_burst_over_two_replicas_gets_what_one_replica_would_give",
            f"{_SHARED}::test_another_deployment_on_the_same_valkey_takes_nothing_away",
            "unit/stores/test_redis.py::TestBuckets::test_the_limits_of_a_call_hold_as_they_do_in_memory",
        ),
    ),
    Behaviour(
        "R-37",
        "R-37",
        "while the shared store is gone, hangs, evicts or is full, nothing is forwarded; afterwards calls go on",
        (
            f"{_SHARED}::test_while_valkey_is_dead_nothing_is_forwarded_and_afterwards_calls_go_on",
            f"{_SHARED}::test_a_hanging_valkey_holds_nobody_up",
            f"{_SHARED}::test_a_valkey_that_begins_to_evict_is_not_relied_on",
            f"{_SHARED}::test_a_full_valkey_lets_nothing_in",
            f"{_SHARED}::test_no_gateway_starts_on_a_valkey_that_evicts",
            f"{_SHARED}::test_no_gateway_starts_with_a_wrong_password_or_without_one",
            "unit/stores/test_redis.py::test_an_answer_that_is_none_redeems_nothing_and_lets_no_call_through",
        ),
    ),
    # R-38: staged rollout.
    Behaviour(
        "R-38",
        "R-38",
        "observing lets run what role, user, session or task would refuse, and writes it down",
        (
            "attacks/test_observe.py::test_what_role_session_or_task_would_refuse_runs_and_is_written_down",
            "attacks/test_observe.py::test_every_event_says_that_it_was_written_while_observing",
            "attacks/test_observe.py::test_a_list_shows_what_would_run",
        ),
    ),
    Behaviour(
        "R-38",
        "DESIGN decision 12",
        "token tools, classes, tenants, scopes, sessions and gate one are never observed",
        (
            f"{_CORE}/test_access.py::test_while_observing_only_refusals_by_role_user_session_and_task_let_a_call_run",
            f"{_CORE}/test_access.py::test_observing_lets_run_only_what_no_tenant_scope_class_or_token_forbids",
            "attacks/test_observe.py::test_what_is_not_a_matter_of_role_and_task_is_refused_as_ever",
            "attacks/test_observe.py::test_scopes_and_gate_one_are_enforced",
        ),
    ),
    Behaviour(
        "R-38",
        "R-38",
        "observing is limited in time and ends by itself",
        (
            "unit/test_config_enforcement.py::test_observing_needs_an_end_ahead_and_near",
            "attacks/test_observe.py::test_observing_ends_by_itself",
        ),
    ),
    # R-40: in front of any server.
    Behaviour(
        "R-40",
        "MCP 2024-11-05 to 2026-07-28, schemas",
        "every method of every version is known, and no other",
        (
            f"{_CORE}/test_protocol.py::test_the_versions_are_those_of_the_sdk",
            f"{_CORE}/test_protocol.py::test_a_method_exists_exactly_where_the_sdk_has_it_and_tasks_are_their_makers",
        ),
    ),
    Behaviour(
        "R-40",
        "R-40",
        "official clients reach real servers, over HTTP and stdio, in both eras",
        (
            "peers/test_official_client.py::test_it_sees_and_calls_what_role_and_task_hold_and_nothing_else",
            "peers/test_mcp_server_git.py::test_both_eras_and_two_users_are_served_side_by_side",
        ),
    ),
    Behaviour(
        "R-40",
        "R-40",
        "clients of both generations, in two languages, reach servers of both in every version that they speak",
        (
            "peers/test_older_sdks.py::test_every_version_makes_the_tour_of_the_everything_server",
            "peers/test_older_sdks.py::test_it_makes_the_tour_of_the_reference_server_over_every_transport",
            "peers/test_typescript_client.py::test_every_version_makes_the_tour_of_the_everything_server",
            "peers/test_typescript_client.py::test_the_newest_version_makes_the_tour_without_a_session",
            "peers/test_typescript_client.py::test_both_generations_make_the_tour_of_the_reference_server",
            "peers/test_inspector.py::test_it_lists_and_calls_tools",
        ),
    ),
    Behaviour(
        "R-40",
        "MCP 2025-11-25, Transports, Session Management",
        "the upstream's session reaches its own principal only",
        (
            f"{_FLOWS}/test_seal.py::test_a_stolen_handle_does_not_open",
            "attacks/test_calls.py::test_a_session_id_of_the_upstream_is_bound_to_its_principal",
        ),
    ),
    Behaviour(
        "R-40",
        "MCP 2025-11-25, Streamable HTTP; MCP 2026-07-28, Streamable HTTP",
        "what the suite of MCP finds of a server it finds through the gateway",
        ("peers/test_conformance.py::test_what_conforms_without_the_gateway_conforms_through_it",),
    ),
    Behaviour(
        "R-40",
        "MCP 2025-11-25, Streamable HTTP, Resumability and Redelivery",
        "a stream is resumed by the principal that it belongs to, and brings what its call may bring now",
        (
            "attacks/test_handles.py::test_the_event_of_another_agents_stream",
            "attacks/test_handles.py::test_an_event_does_not_bring_more_than_its_call_may_now",
            f"{_FLOWS}/test_relay.py::test_a_resumed_list_is_filtered_as_the_list_was",
        ),
    ),
    Behaviour(
        "R-40",
        "MCP 2025-11-25, Client Features; DESIGN, decision 13",
        "a server asks clients what its settings allow, and an answer comes from whom it asked",
        (
            "attacks/test_server_requests.py::test_a_question_that_the_settings_do_not_allow_is_refused_to_the_server",
            "attacks/test_handles.py::test_an_answer_to_what_another_agent_was_asked",
            "attacks/test_review_breadth.py::test_a_task_does_not_bring_a_question_that_is_not_allowed",
            "attacks/test_review_breadth.py::test_questions_inside_a_result_are_on_the_audit_trail",
        ),
    ),
    Behaviour(
        "R-40",
        "MCP 2024-11-05, Transports, HTTP with SSE",
        "a client of the old transport lists, calls, is asked and is refused like any other",
        (
            "peers/test_legacy_clients.py::test_it_lists_calls_reads_and_is_told_and_asked_on_its_one_stream",
            "attacks/test_handles.py::test_a_message_to_another_agents_event_stream",
        ),
    ),
    Behaviour(
        "R-32",
        "MCP 2025-11-25, Tasks; MCP 2026-07-28, extension io.modelcontextprotocol/tasks",
        "a task is its maker's, and every method on it is decided as the call that made it",
        (
            "attacks/test_handles.py::test_the_task_of_another_agent",
            "peers/test_tasks.py::test_a_tool_runs_as_a_task_asks_on_its_way_and_gives_its_result",
            f"{_FLOWS}/test_admit.py::test_a_task_is_decided_as_the_call_that_made_it",
        ),
    ),
    # R-33: operation tokens.
    Behaviour(
        "R-33",
        "DESIGN decision 7",
        "an operation token that this server did not sign as one is refused, and it is no access token",
        (
            "attacks/test_operation_tokens.py::test_what_this_server_did_not_sign_as_an_operation_token_is_refused",
            "attacks/test_operation_tokens.py::test_an_operation_token_opens_nothing_as_an_access_token",
            "attacks/test_operation_tokens.py::test_a_token_in_both_places_counts_if_they_say_the_same",
        ),
    ),
    Behaviour(
        "R-33",
        "RFC 8785",
        "the digest is of what the call means, and the digested bytes are what runs",
        (
            f"{_CORE}/test_operation.py::test_the_published_vectors_hold",
            f"{_CORE}/test_operation.py::test_what_means_the_same_has_the_same_digest_however_it_is_spelled",
            f"{_CORE}/test_operation.py::test_what_differs_in_any_way_has_another_digest",
            f"{_CORE}/test_operation.py::test_the_canonical_message_is_what_was_digested_and_stays_so",
            "attacks/test_operation_tokens.py::test_what_means_the_same_has_the_same_digest_and_runs_as_it_was_signed",
            "attacks/test_operation_tokens.py::test_what_only_looks_the_same_is_another_call",
            "attacks/test_operation_tokens.py::test_what_peers_would_read_differently_is_refused_at_both_ends",
        ),
    ),
    Behaviour(
        "R-33",
        "R-33",
        "a token is bound to tenant, agent, user, session, tool and arguments",
        (
            "attacks/test_operation_tokens.py::test_each_bound_field_is_compared",
            "attacks/test_operation_tokens.py::test_other_arguments_are_another_call",
            "attacks/test_operation_tokens.py::test_an_answer_signed_for_one_call_does_not_go_on_with_another",
            "attacks/test_operation_tokens.py::test_a_call_that_needs_no_token_does_not_go_on_with_one_that_was_signed_for",
            "attacks/test_operation_tokens.py::test_input_signed_for_one_task_is_none_for_another",
            "attacks/test_operation_tokens.py::test_nothing_is_added_to_a_call_under_the_name_of_a_handle",
            "attacks/test_operation_tokens.py::test_a_token_is_of_no_use_to_another_agent_person_session_or_tool",
            "attacks/test_operation_tokens.py::test_a_call_that_needs_no_token_and_brings_one_is_judged_alike",
        ),
    ),
    Behaviour(
        "R-33",
        "R-33",
        "tokens are issued by hosts and authorizers for what is theirs, and never by what an agent holds",
        (
            "attacks/test_operation_tokens.py::test_no_agent_issues_itself_a_token_whatever_it_holds",
            "attacks/test_operation_tokens.py::test_an_exchanged_token_is_never_for_operations",
            "attacks/test_operation_tokens.py::test_a_host_issues_for_its_own_person_and_an_authorizer_for_its_lists",
            "attacks/test_operation_tokens.py::test_a_host_learns_of_its_persons_sessions_and_an_agent_of_its_own",
            "attacks/test_operation_tokens.py::test_whoever_is_cut_off_takes_the_tokens_along",
        ),
    ),
    Behaviour(
        "R-33",
        "DESIGN decision 9",
        "one token lets one call run, at most once, whatever fails or crashes in between",
        (
            "attacks/test_operation_tokens.py::test_of_twenty_calls_at_once_with_one_token_one_runs",
            "attacks/test_operation_tokens.py::test_a_call_that_is_refused_for_its_rate_uses_nothing_up",
            "attacks/test_operation_tokens.py::test_a_server_that_cannot_be_reached_uses_nothing_up_and_one_that_breaks_off_does",
            "attacks/test_operation_tokens.py::test_without_the_audit_trail_nothing_runs_and_the_token_is_good_afterwards",
            "attacks/test_operation_tokens.py::test_without_the_store_nothing_runs",
            "attacks/test_operation_tokens.py::test_a_client_that_goes_away_leaves_a_used_token",
            "crash/test_operations.py::test_a_call_that_was_running_at_kill_9_never_runs_again_and_the_agent_is_told",
            "stateful/test_operations.py::test_no_order_of_events_makes_a_token_run_twice",
        ),
    ),
    # R-73: the console.
    Behaviour(
        "R-73",
        "DESIGN, decision 8 and interface",
        "people see and do in the console what their duties in their own tenant allow, from the next click on",
        (
            "attacks/test_console.py::test_nobody_sees_a_page_without_a_login",
            "attacks/test_console.py::test_a_duty_opens_its_pages_and_its_navigation_leads_to_no_other",
            "attacks/test_console.py::test_a_person_of_one_tenant_sees_nothing_of_another_on_any_page",
            "attacks/test_console.py::test_what_is_asked_for_of_another_tenant_is_not_there",
            "attacks/test_console.py::test_an_operator_ends_nothing_and_pauses_nobody_of_another_tenant",
            "attacks/test_console.py::test_another_sites_form_does_nothing",
            "attacks/test_console.py::test_who_may_only_look_or_approve_operates_nothing",
            "attacks/test_console.py::test_a_duty_taken_away_or_a_person_disabled_is_out_at_the_next_click",
            "attacks/test_console.py::test_a_duty_comes_from_a_group_too",
            "attacks/test_console_people.py::test_who_is_gone_at_their_provider_is_not_logged_in_to_the_console",
            "attacks/test_console.py::test_another_site_beside_ours_opens_no_stream_and_steers_no_window",
        ),
    ),
    Behaviour(
        "R-73",
        "a hostile review of the console",
        "nothing that others do hides a session or a call, or keeps an operator of another tenant from acting",
        (
            "attacks/test_console.py::test_a_session_is_found_and_ended_however_many_were_opened_after_it",
            "attacks/test_console.py::test_who_cannot_read_the_trail_can_end_sessions_all_the_same",
            "attacks/test_console.py::test_people_of_one_tenant_cannot_take_every_stream",
            "attacks/test_approvals.py::test_a_flood_of_calls_hides_no_older_one_without_saying_so",
            "unit/adapters/test_audit_reading.py::test_people_of_one_tenant_keep_nobody_of_another_from_reading",
        ),
    ),
    Behaviour(
        "R-73",
        "DESIGN, interface",
        "strangers' texts drive no terminal and forge no line of a command; the trail says whose account acted",
        (
            "unit/cli/test_output.py::test_a_cell_begins_no_row_of_its_own",
            "unit/cli/test_output.py::test_one_line_is_one_line_and_drives_no_terminal",
            "unit/cli/test_audit.py::test_a_line_as_it_stands_drives_no_terminal_and_is_the_same_json",
            "unit/cli/test_session.py::test_the_trail_says_whose_account_ended_it_whatever_the_environment_says",
            "unit/cli/test_session.py::test_it_counts_the_calls_that_were_refused_to_each",
        ),
    ),
    Behaviour(
        "R-33",
        "DESIGN decision 7",
        "a person signs at the console for calls of their own sessions, with a passkey used within five minutes",
        (
            "attacks/test_console_tokens.py::test_a_person_signs_for_exactly_one_call_of_their_own_session",
            "attacks/test_console_tokens.py::test_a_login_without_a_passkey_used_just_before_signs_for_nothing",
            "attacks/test_console_tokens.py::test_nobody_signs_for_anothers_session_or_nobodys",
            "attacks/test_console_tokens.py::test_what_the_agent_may_not_do_no_person_lets_it_do",
            "attacks/test_console_tokens.py::test_what_peers_read_differently_is_not_signed_for",
            "attacks/test_console_tokens.py::test_another_sites_form_and_a_login_without_a_duty_sign_for_nothing",
            "attacks/test_operation_tokens.py::test_what_a_person_signed_for_at_the_console_runs_once_and_not_after_they_are_locked_out",
        ),
    ),
    Behaviour(
        "R-73",
        "DESIGN, interface",
        "operators pause and enable agents and end sessions, and the trail says who did it",
        (
            "attacks/test_console.py::test_an_operator_pauses_and_enables_and_the_trail_says_who",
            "attacks/test_console.py::test_an_operator_ends_a_session_once_and_the_trail_says_who",
            "attacks/test_console.py::test_when_the_trail_cannot_be_written_nothing_is_operated",
            "contracts/test_registry_store.py::test_enabling_an_agent_takes_the_disabling_back_and_happens_once",
            "unit/cli/test_agent.py::test_a_disabled_agent_is_enabled_again_once",
        ),
    ),
    Behaviour(
        "R-73",
        "WCAG 2.2 AA; DESIGN, security rules",
        "pages are live, fit a phone, work by keyboard and without scripts, and show strangers' names as text",
        (
            "browser/test_console.py::test_a_call_arrives_live_and_a_passkey_approves_it_by_the_keyboard_alone",
            "browser/test_console.py::test_without_scripts_people_deny_end_pause_filter_and_explain",
            "browser/test_console.py::test_a_checker_finds_no_fault_with_any_page_in_light_and_dark",
            "browser/test_console.py::test_what_one_person_does_another_sees_but_never_under_their_hands_and_never_as_a_login_page",
            "browser/test_console.py::test_the_audit_page_filters_without_loading_and_new_events_arrive",
            "browser/test_console.py::test_what_a_server_changed_is_shown_beside_what_was_approved",
            "unit/web/test_console_style.py::test_htmx_may_not_evaluate_run_remember_or_go_elsewhere",
            "peers/test_vendored.py::test_a_vendored_script_is_the_published_one_of_the_version_that_is_named",
            "unit/web/test_console_style.py::test_text_and_edges_of_controls_can_be_read",
            "attacks/test_console.py::test_names_of_strangers_bring_no_markup_and_hide_nothing",
            "attacks/test_console.py::test_streams_are_few_and_end_with_the_generation_and_the_duty",
            "unit/adapters/test_audit_reading.py::test_reading_ends_at_the_cap_and_says_so",
        ),
    ),
    # R-34: people in the loop.
    Behaviour(
        "R-34",
        "DESIGN decision 8",
        "nobody but a person with a duty, their own passkey and our own page approves",
        (
            "attacks/test_approvals.py::test_a_person_reads_what_will_run_and_approves_it",
            "attacks/test_approvals.py::test_another_sites_form_neither_approves_nor_denies",
            "attacks/test_approvals.py::test_a_login_without_the_duty_decides_nothing",
            "attacks/test_approvals.py::test_another_persons_passkey_does_not_approve_in_this_persons_browser",
            "attacks/test_approvals.py::test_an_answer_for_one_call_or_decision_is_none_for_another",
            "attacks/test_approvals.py::test_a_name_that_is_cut_in_headings_stands_in_full_in_what_runs",
            "attacks/test_console_people.py::test_a_person_of_a_provider_approves_by_a_passkey_that_logs_nobody_in",
            "attacks/test_console_people.py::test_an_operator_removes_a_lost_passkey_and_what_it_logged_in",
        ),
    ),
    Behaviour(
        "R-34",
        "DESIGN decision 10",
        "a call waits in the best form that its client speaks",
        (
            "attacks/test_waiting_calls.py::test_a_call_is_held_then_told_in_words_and_runs_when_it_comes_again_approved",
            "attacks/test_waiting_calls.py::test_a_held_call_runs_as_soon_as_it_is_approved",
            "attacks/test_waiting_calls.py::test_input_is_asked_for_at_once_and_the_retry_runs_what_was_approved",
            "attacks/test_waiting_calls.py::test_a_task_works_until_it_is_approved_and_runs_within_the_question_for_it",
            "attacks/test_waiting_calls.py::test_the_error_of_2025_11_25_tells_where_and_the_same_call_runs_later",
            "attacks/test_waiting_calls.py::test_a_batch_is_not_held_and_its_member_waits",
            "peers/test_approvals.py::test_a_client_of_2025_11_25_is_told_where_and_its_commit_is_made_once",
            "peers/test_approvals.py::test_a_client_of_2026_07_28_opens_the_page_and_its_commit_is_made_once",
            "peers/test_approvals.py::test_a_client_with_tasks_asks_until_it_is_done",
            "peers/test_approvals.py::test_a_client_with_tasks_listens_until_it_is_done",
            "attacks/test_library_waiting.py::test_a_call_waits_is_approved_on_a_page_and_runs_once_in_the_process",
            "peers/test_approvals.py::test_an_older_client_waits_in_its_call_and_the_row_is_written_once",
        ),
    ),
    Behaviour(
        "R-34",
        "MCP 2025-11-25 client/elicitation; MCP tasks extension 2026-07-28",
        "who listens hears how people decided its own calls, and nobody else does",
        (
            "attacks/test_waiting_streams.py::test_a_client_hears_on_its_own_stream_that_people_decided_whatever_they_did",
            "attacks/test_waiting_streams.py::test_nobody_else_hears_that_people_decided",
            "attacks/test_waiting_streams.py::test_what_was_decided_while_nobody_listened_is_not_told_later",
            "attacks/test_waiting_streams.py::test_who_listens_to_its_task_hears_it_run_once_it_is_approved",
            "attacks/test_waiting_streams.py::test_the_server_is_asked_for_the_rest_and_never_hears_of_our_tasks",
            "attacks/test_waiting_streams.py::test_a_task_of_somebody_else_is_as_unknown_as_none",
            "attacks/test_waiting_streams.py::test_a_listener_that_was_cut_off_hears_nothing_and_lets_nothing_run",
            "attacks/test_waiting_streams.py::test_of_many_who_listen_and_ask_one_lets_it_run",
            "attacks/test_waiting_streams.py::test_when_twogate_stops_held_answers_and_streams_end_at_once_and_nothing_starts",
            "unit/flows/test_shared_stream.py::test_no_event_is_ever_broken_by_another",
        ),
    ),
    Behaviour(
        "R-34",
        "DESIGN decision 8",
        "what was approved lets nothing else run, and nobody else",
        (
            "attacks/test_waiting_calls.py::test_what_was_approved_is_no_approval_of_other_arguments",
            "attacks/test_waiting_calls.py::test_a_state_is_for_one_call_of_one_caller",
            "attacks/test_waiting_calls.py::test_a_task_is_its_callers_alone",
            "attacks/test_waiting_calls.py::test_another_tenants_agent_finds_nothing_of_it",
            "attacks/test_waiting_calls.py::test_a_token_replaces_no_approval",
            "attacks/test_waiting_calls.py::test_what_a_server_asks_in_between_is_approved_with_its_answer",
        ),
    ),
    Behaviour(
        "R-34",
        "DESIGN decision 8",
        "an approved call runs only if its caller may still do it",
        (
            "attacks/test_waiting_calls.py::test_an_approval_dies_with_the_session",
            "attacks/test_waiting_calls.py::test_an_approval_runs_nothing_that_the_agent_may_not_do_any_more",
            "attacks/test_waiting_calls.py::test_a_disabled_agents_approval_runs_nothing",
            "attacks/test_waiting_calls.py::test_an_approval_is_for_the_tool_as_it_was_pinned_when_it_was_asked_for",
            "attacks/test_waiting_calls.py::test_a_rule_that_was_changed_needs_another_approval",
            "attacks/test_waiting_calls.py::test_a_denied_call_stays_denied_in_every_form",
        ),
    ),
    Behaviour(
        "R-34",
        "DESIGN decision 8",
        "a call that waits ends with its session, its agent and its time, and no vote counts of who may not vote",
        (
            "attacks/test_cut_off_approvals.py::test_whoever_is_cut_off_takes_the_waiting_call_along_before_anybody_asks_again",
            "attacks/test_cut_off_approvals.py::test_who_may_not_approve_any_more_has_not_approved_when_it_is_about_to_run",
            "attacks/test_cut_off_approvals.py::test_who_is_disabled_while_the_call_starts_has_not_approved_either",
            "attacks/test_cut_off_approvals.py::test_a_vote_does_not_count_whose_person_was_disabled_before_the_deciding_one",
            "attacks/test_cut_off_approvals.py::test_nobody_approves_for_an_agent_that_was_just_paused",
            "unit/flows/test_approval_sweep.py::test_what_waits_or_was_granted_expires_on_time_though_nobody_asks",
            "unit/flows/test_approval_sweep.py::test_of_many_replicas_one_cancels_and_says_why",
        ),
    ),
    Behaviour(
        "R-34",
        "DESIGN decision 8",
        "an approval is verified from the audit trail alone, and nothing else passes for one",
        (
            "unit/cli/test_approval.py::test_what_was_signed_verifies_from_the_trail_alone",
            "unit/cli/test_approval.py::test_an_event_that_says_something_else_than_was_signed_does_not_hold",
            "unit/cli/test_approval.py::test_nothing_but_a_verified_persons_approval_of_this_very_call_is_evidence",
            "unit/cli/test_approval.py::test_an_approval_without_its_signature_or_hidden_as_a_denial_makes_the_command_fail",
        ),
    ),
    Behaviour(
        "R-34",
        "DESIGN decision 9",
        "an approved call runs once, and its one answer is kept",
        (
            "attacks/test_waiting_calls.py::test_of_twenty_identical_calls_at_once_one_runs_and_all_get_its_answer",
            "attacks/test_waiting_calls.py::test_a_failure_of_the_one_run_is_its_answer_and_nothing_runs_again",
            "attacks/test_waiting_calls.py::test_a_server_that_got_nothing_leaves_the_approval_good",
            "attacks/test_waiting_calls.py::test_without_the_audit_trail_nothing_is_parked_and_nothing_runs",
            "attacks/test_waiting_calls.py::test_without_the_store_nothing_runs",
            "attacks/test_waiting_calls.py::test_a_restart_loses_no_parked_call_and_lets_it_run_once",
            "crash/test_approvals.py::test_an_approved_call_that_was_running_at_kill_9_never_runs_again",
            "peers/test_waiting_on_postgres.py::test_of_twenty_at_once_over_two_replicas_one_runs_and_all_get_its_answer",
            "stateful/test_approvals.py::test_no_order_of_events_runs_a_call_twice_or_without_an_approval",
        ),
    ),
    Behaviour(
        "R-34",
        "R-34",
        "an agent cannot flood people, and a client that goes away changes nothing",
        (
            "attacks/test_waiting_calls.py::test_an_agent_cannot_let_more_than_ten_calls_wait",
            "attacks/test_cut_off_approvals.py::test_an_agent_that_is_denied_asks_people_only_so_often",
            "attacks/test_cut_off_approvals.py::test_who_approved_too_many_reads_when_they_can_again_and_can_deny",
            "contracts/test_parked_store.py::test_of_many_approvals_of_one_person_at_once_no_more_are_counted_than_may_be",
            "attacks/test_waiting_calls.py::test_only_some_calls_of_an_agent_are_held_and_the_others_told_at_once",
            "attacks/test_waiting_calls.py::test_a_client_that_goes_away_while_it_is_held_changes_nothing",
        ),
    ),
    Behaviour(
        "R-44",
        "JSON-RPC 2.0, section 6; MCP 2025-03-26, Base Protocol",
        "each member of a batch is decided alone",
        ("attacks/test_batches.py::test_a_forbidden_member_does_not_ride_along_with_an_allowed_one",),
    ),
    Behaviour(
        "R-40",
        "MCP 2025-11-25, Listening for Messages from the Server; DESIGN, decision 18",
        "a stream ends when its listener may not listen any more",
        (
            "attacks/test_streams.py::test_a_listener_that_was_cut_off_hears_nothing_more",
            "attacks/test_streams.py::test_a_silent_stream_ends_with_its_token",
        ),
    ),
    Behaviour(
        "R-40",
        "findings; ADR 2",
        "an answer of 100 MiB passes in flat memory, and a wrong one never looks complete",
        (
            "crash/test_large_answers.py::test_a_hundred_mebibytes_pass_in_flat_memory",
            "crash/test_large_answers.py::test_a_large_answer_that_turns_out_wrong_never_looks_complete",
        ),
    ),
    Behaviour(
        "R-31",
        "DESIGN, decision 6",
        "a task declared at initialize is bound to the MCP session",
        (
            f"{_FLOWS}/test_admit.py::test_a_session_bound_at_initialize_is_in_force_and_must_agree_with_every_other_source",
        ),
    ),
    Behaviour(
        "R-40",
        "MCP 2025-11-25, Transports, Security Warning",
        "a foreign Origin is refused",
        (
            "unit/web/test_gateway.py::test_another_origin_is_refused_counted_and_told_nothing",
            "attacks/test_calls.py::test_a_foreign_origin_is_refused",
        ),
    ),
    Behaviour(
        "R-40",
        "R-40",
        "a server that talks rubbish, breaks off or asks the agent something reaches nobody",
        (
            f"{_FLOWS}/test_relay.py::test_what_does_not_answer_this_call_is_refused_and_not_passed_on",
            f"{_FLOWS}/test_relay.py::test_what_the_server_may_not_ask_is_refused_to_it_and_does_not_pass",
            "attacks/test_upstream_answers.py::test_an_answer_that_breaks_a_rule_is_invalid",
            "attacks/test_stdio_servers.py::test_the_server_cannot_ask_a_client_that_declared_nothing",
        ),
    ),
    Behaviour(
        "R-40",
        "MCP 2024-11-05, Transports, HTTP with SSE",
        "a server of the old transport is used like any other, and posts go to its own origin only",
        (
            "peers/test_sse_server.py::test_the_client_of_today_uses_it_as_any_other_server",
            "peers/test_sse_server.py::test_an_sse_server_that_is_killed_fails_its_calls_and_is_used_again_when_it_is_back",
            "attacks/test_sse_upstream.py::test_an_endpoint_elsewhere_is_refused_and_nobody_is_called",
        ),
    ),
    Behaviour(
        "R-40",
        "MCP 2025-11-25, Client Features; ADR 4",
        "what a stdio or HTTP+SSE server asks gets one answer, from the principal and session that it asked",
        (
            "peers/test_sse_server.py::test_it_asks_the_model_the_person_and_for_folders",
            "unit/adapters/test_stdio_questions.py::test_nobody_answers_for_another_principal_or_session",
            "unit/adapters/test_stdio_questions.py::test_a_late_answer_is_not_the_answer_to_the_next_processs_question",
        ),
    ),
    Behaviour(
        "R-40",
        "R-40",
        "a hundred thousand calls leave no task, connection or memory behind",
        ("unit/adapters/test_upstream_http_endurance.py::test_a_hundred_thousand_calls_leave_nothing_behind",),
    ),
    Behaviour(
        "R-40",
        "R-40",
        "a result of any size passes as it comes, in flat memory",
        (
            f"{_CORE}/test_json_stream.py::test_a_large_answer_passes_as_it_comes_in_flat_memory",
            f"{_CORE}/test_sse.py::test_a_large_event_passes_in_flat_memory",
            f"{_CORE}/test_json_stream.py::test_a_large_event_goes_through_both_and_reaches_the_client_as_one",
        ),
    ),
    # R-43: what was approved is what is used.
    Behaviour(
        "R-43",
        "R-43; ADR 23",
        "what a server shows otherwise than it was approved is neither shown nor called, and told of once",
        (
            f"{_PINS}::TestARugPull::test_a_description_that_changes_between_two_lists_is_held_back_and_told_of",
            f"{_PINS}::TestARugPull::test_whatever_member_changes_the_tool_is_not_shown_and_not_called",
            f"{_PINS}::TestARugPull::test_a_change_that_nobody_can_see_is_seen",
            f"{_PINS}::TestARugPull::test_a_change_for_one_tenant_only_is_that_tenants",
            f"{_PINS}::TestPromptsAndInstructions::test_changed_instructions_are_taken_out_and_the_rest_passes",
            f"{_PINS}::TestPromptsAndInstructions::test_a_changed_prompt_is_neither_shown_nor_got_nor_completed",
            f"{_PINS}::TestAnAlertThatCannotBeWritten::test_nothing_of_the_answer_passes",
            "peers/test_pinned_servers.py::test_a_server_that_changes_a_tool_is_held_back_for_the_official_client",
        ),
    ),
    Behaviour(
        "R-43",
        "R-43; ADR 23",
        "what nobody approved is withheld where approvals are required; an approval and its withdrawal hold everywhere",
        (
            f"{_PINS}::TestApprovals::test_without_any_approval_everything_is_as_ever_unless_one_is_required",
            f"{_PINS}::TestApprovals::test_both_of_two_replicas_act_on_an_approval_and_on_its_withdrawal",
            "contracts/test_pin_store.py::test_every_other_replica_sees_an_approval_and_its_withdrawal_when_they_return",
            "unit/cli/test_tool_pins.py::test_what_is_kept_is_what_the_person_saw_and_not_what_the_server_shows_next",
            "unit/cli/test_tool_pins.py::test_nothing_that_is_shown_can_drive_the_terminal_or_hide",
        ),
    ),
    Behaviour(
        "R-43",
        "R-43; JSON Schema 2020-12",
        "arguments are checked against the approved schema, which can neither fetch nor keep us",
        (
            f"{_SCHEMAS}::test_arguments_that_do_not_fit_are_refused_with_their_place",
            f"{_SCHEMAS}::test_no_schema_makes_the_gateway_fetch_anything",
            f"{_SCHEMAS}::test_a_schema_that_cannot_be_checked_in_time_is_refused_when_it_is_read",
            f"{_SCHEMAS}::test_arguments_that_would_take_too_long_are_not_even_begun",
            f"{_SCHEMAS}::test_what_is_read_of_a_schema_is_what_its_validator_sees",
            "peers/test_pinned_servers.py::test_every_tool_of_a_real_server_is_approved_and_called",
        ),
    ),
    # R-44: what is authorized is what is sent.
    Behaviour(
        "R-44",
        "RFC 8259; JSON-RPC 2.0 section 5",
        "what passes piece by piece is read alike by every parser, and is the whole answer to this very call",
        (
            "fuzz/test_corpus.py::test_an_answer_passes_piece_by_piece_exactly_if_it_may",
            "fuzz/test_fuzz_answer.py::test_a_mutated_answer_passes_exactly_if_every_parser_reads_it_alike",
            f"{_CORE}/test_json_stream.py::test_what_is_no_response_with_a_result_is_refused",
            f"{_CORE}/test_json_stream.py::test_a_result_that_must_be_seen_whole_is_refused_whatever_its_spelling",
            f"{_CORE}/test_json_stream.py::test_the_last_brace_comes_with_the_end_alone",
        ),
    ),
    Behaviour(
        "R-44",
        "RFC 8259 section 4; RFC 7493 section 2.3",
        "a member named twice is refused at any depth",
        (
            f"{_CORE}/test_message.py::test_a_member_named_twice_is_refused_at_any_depth_and_spelling",
            "attacks/test_calls.py::test_a_duplicate_key_does_not_smuggle_another_tool",
        ),
    ),
    Behaviour(
        "R-44",
        "R-44",
        "a member in disguise is refused",
        ("attacks/test_parser_tricks.py::test_a_params_member_in_disguise_is_refused",),
    ),
    Behaviour(
        "R-44",
        "MCP 2026-07-28, Transports, Streamable HTTP",
        "headers that disagree with the body are refused",
        ("attacks/test_header_mismatch.py::test_a_modern_header_that_is_missing_or_differs_is_a_mismatch",),
    ),
    Behaviour(
        "R-44",
        "MCP 2026-07-28, Transports, Streamable HTTP, Custom Headers from Tool Parameters",
        "headers that repeat arguments say what the arguments say, and those for the server are made from these",
        (
            "attacks/test_param_headers.py::test_a_header_that_misleads_is_refused_and_nothing_runs",
            "attacks/test_param_headers.py::test_an_honest_call_passes_with_headers_made_from_its_arguments",
            "peers/test_catalogue.py::test_the_official_clients_headers_pass_and_the_official_server_takes_ours",
            "fuzz/test_fuzz_param_headers.py::test_what_passes_here_passes_the_official_server_too",
        ),
    ),
    Behaviour(
        "R-44",
        "MCP 2026-07-28, server/tools, x-mcp-header",
        "a tool whose annotations break the rules is neither shown to clients of that version nor called for them",
        (
            "attacks/test_param_headers.py::test_a_tool_whose_annotations_break_the_rules_looks_like_none_at_all",
            "attacks/test_param_headers.py::test_a_list_does_not_show_a_modern_client_what_it_must_not_use",
        ),
    ),
    Behaviour(
        "R-44",
        "R-44",
        "a call that cannot be checked, because the server's tools cannot be had, is not made",
        (
            "attacks/test_param_headers.py::test_a_server_whose_list_is_invalid_is_not_called_on_trust",
            f"{_FLOWS}/test_catalogue.py::test_while_the_server_fails_the_last_list_serves_to_its_age_limit_and_no_longer",
        ),
    ),
    Behaviour(
        "R-44",
        "R-44",
        "what goes upstream is encoded from what was decided on",
        (
            "attacks/test_calls.py::test_what_is_decided_on_is_what_is_sent",
            "test_architecture.py::test_no_module_reads_members_of_a_message_by_its_raw_bytes_upstream",
        ),
    ),
    Behaviour(
        "R-44",
        "RFC 9112 sections 6 and 11",
        "one request has one framing",
        (
            "attacks/test_http_framing.py::test_the_trick_is_refused_and_the_application_sees_nothing",
            "attacks/test_control_plane.py::test_what_does_not_exist_is_refused_with_every_security_header",
        ),
    ),
    # R-70: audit.
    Behaviour(
        "R-70",
        "R-70",
        "an intent is written before the call is forwarded, an outcome before its answer ends",
        (
            f"{_FLOWS}/test_relay.py::test_intent_then_upstream_then_outcome_then_answer",
            f"{_FLOWS}/test_relay.py::test_a_stream_passes_as_it_comes_and_its_outcome_is_written_before_its_end",
        ),
    ),
    Behaviour(
        "R-70",
        "R-70",
        "every refusal is written before it is answered",
        (
            f"{_FLOWS}/test_pipeline.py::test_a_stranger_is_refused_before_its_body_is_read",
            f"{_FLOWS}/test_pipeline.py::test_a_request_that_is_no_acceptable_message_is_refused_and_recorded_with_its_agent",
        ),
    ),
    Behaviour(
        "R-70",
        "R-70; DESIGN decision 19",
        "without a trail that can be written nothing is forwarded or answered",
        (
            f"{_FLOWS}/test_pipeline.py::test_without_a_written_intent_the_upstream_sees_nothing",
            f"{_FLOWS}/test_relay.py::test_no_part_of_an_answer_leaves_whose_outcome_cannot_be_written",
            "crash/test_fail_closed.py::test_when_the_audit_trail_cannot_be_written_nothing_passes_until_it_can",
        ),
    ),
    Behaviour(
        "R-70",
        "R-70",
        "no credential and no argument is written down",
        (
            f"{_FLOWS}/test_pipeline.py::test_what_is_recorded_are_names_and_digests_and_no_argument_or_token",
            "unit/adapters/test_audit_log.py::test_no_canary_secret_reaches_the_file",
        ),
    ),
    Behaviour(
        "R-70",
        "R-70",
        "a changed, cut or reordered trail is found",
        (
            "attacks/test_audit_tampering.py::test_a_flipped_byte_anywhere_is_found",
            f"{_CORE}/test_audit_chain.py::test_every_single_flipped_bit_is_found",
        ),
    ),
    Behaviour(
        "R-70",
        "R-70",
        "strangers cannot fill the disk with refusals",
        (
            "unit/adapters/test_audit_log.py::test_a_flood_of_refusals_becomes_few_events_and_true_counts",
            "attacks/test_floods.py::test_a_flood_of_refusals_is_a_handful_of_events",
        ),
    ),
    # R-45: stdio servers are confined.
    Behaviour(
        "R-45",
        "R-45",
        "a sandboxed server sees no process, key, store or socket of ours, and only what is named can be written",
        (
            "attacks/test_sandbox.py::test_proc_shows_nothing_of_ours",
            "attacks/test_sandbox.py::test_keys_and_store_cannot_be_read_by_any_way",
            "attacks/test_sandbox.py::test_a_secret_below_what_may_be_read_stays_hidden",
            "attacks/test_sandbox.py::test_devices_sockets_and_other_peoples_files_are_out_of_sight",
            "attacks/test_sandbox.py::test_only_what_is_named_can_be_written",
            "attacks/test_sandbox.py::test_a_link_that_a_server_plants_is_not_followed_at_the_next_start",
            "unit/test_config_sandbox.py::test_every_file_that_settings_name_is_known_to_be_secret_or_not",
        ),
    ),
    Behaviour(
        "R-45",
        "R-45",
        "a sandboxed server reaches no network, signals nobody, leaves nothing, and is held to its limits",
        (
            "attacks/test_sandbox.py::test_no_socket_leads_anywhere",
            "attacks/test_sandbox.py::test_it_can_neither_signal_nor_trace_us",
            "attacks/test_sandbox.py::test_no_process_is_left_however_it_ends",
            "attacks/test_sandbox.py::test_it_cannot_exceed_its_memory_processes_and_files",
        ),
    ),
    Behaviour(
        "R-45",
        "R-45",
        "each tenant's servers run as an account of its own, and what the system cannot do is an error",
        (
            "attacks/test_sandbox.py::test_it_has_the_tenants_user_no_capability_and_no_group_of_ours",
            "attacks/test_sandbox.py::test_a_tenant_without_an_account_gets_no_process",
            "attacks/test_sandboxed_tenants.py::test_each_tenants_server_runs_as_its_account_and_sees_nothing_else",
            "unit/test_config_sandbox.py::test_several_tenants_need_an_account_each",
            "unit/test_config_sandbox.py::test_under_root_a_server_needs_an_account_that_is_not_roots",
            "unit/test_config_sandbox.py::test_what_the_system_cannot_do_is_an_error_and_never_a_weaker_sandbox",
        ),
    ),
    # R-42: library mode.
    Behaviour(
        "R-42",
        "R-42; DESIGN decision 16",
        "a server that guards itself refuses what the gateway refuses, and only what was decided on reaches its code",
        (
            "attacks/test_tokens.py::test_every_bad_token_is_refused_by_a_server_that_guards_itself",
            "attacks/test_library.py::test_without_an_audit_trail_nothing_reaches_the_application",
            "attacks/test_library.py::test_nothing_else_of_the_application_can_be_reached",
            "attacks/test_library.py::test_what_the_edge_refuses_is_refused_under_plain_uvicorn",
            "attacks/test_library.py::test_strange_answers_are_failures_of_the_server_and_show_nothing",
            "peers/test_library_examples.py::test_the_official_client_calls_an_example_through_both_gates",
        ),
    ),
    Behaviour(
        "R-42",
        "R-42; DESIGN decision 16",
        "FastMCP's middleware and `require_auth` add to the gates: without a live stamp for the very message, nothing",
        (
            "attacks/test_library.py::test_every_method_that_the_gates_let_in_carries_its_stamp",
            "attacks/test_library.py::test_the_same_server_mounted_elsewhere_is_refused",
            "attacks/test_library.py::test_a_client_in_memory_is_refused",
            "attacks/test_library.py::test_stdio_is_refused",
            "attacks/test_library.py::test_the_stamp_of_a_running_request_serves_no_other",
            "attacks/test_library.py::test_a_stamp_is_worth_nothing_after_its_request",
            "attacks/test_library.py::test_require_auth_narrows_what_the_gates_allow",
            "attacks/test_library.py::test_require_auth_never_widens",
        ),
    ),
    # R-46: the upstream learns who calls.
    Behaviour(
        "R-46",
        "R-46",
        "a server that asks for it is told agent, person, session and task of each call, in a token for it alone",
        (
            "attacks/test_identity.py::test_a_server_is_told_who_calls_by_a_token_that_its_helper_verifies",
            "attacks/test_identity.py::test_the_token_is_refused_by_every_other_server_and_by_the_gateway_itself",
            "attacks/test_identity.py::test_a_header_that_the_caller_brings_is_never_passed_on",
        ),
    ),
    # R-09: DPoP at the authorization server.
    Behaviour(
        "R-09",
        "RFC 9449 sections 4.3 and 5",
        "a good proof binds the tokens to its key, and only a good one does",
        (
            f"{_FLOWS}/test_dpop.py::TestTheTokenEndpoint::test_a_client_with_a_proof_gets_a_token_bound_to_its_key",
            f"{_CORE}/jose/test_dpop.py::test_the_rfcs_own_example_is_good_and_its_key_has_the_rfcs_thumbprint",
            f"{_CORE}/jose/test_dpop.py::test_a_proof_for_another_request_is_refused",
            f"{_CORE}/jose/test_dpop.py::test_a_private_key_is_refused_whatever_it_holds",
            "attacks/test_dpop.py::TestForgeries::test_a_key_that_was_swapped_into_a_good_proof_is_refused",
            "attacks/test_dpop.py::TestKeySwap::test_a_stolen_refresh_token_is_worth_nothing_with_another_key_or_none",
        ),
    ),
    Behaviour(
        "R-09",
        "RFC 9449 sections 8 and 11.1",
        "a proof holds the server's nonce and works once, at one replica",
        (
            "attacks/test_dpop.py::TestReplay::test_a_captured_proof_is_refused_the_second_time",
            "attacks/test_dpop.py::TestReplay::test_of_many_uses_at_once_one_gets_a_token",
            "attacks/test_dpop.py::TestReplay::test_a_stranger_cannot_make_the_server_remember_anything",
            f"{_FLOWS}/test_dpop.py::TestNonces::test_a_nonce_is_good_in_its_own_period_and_the_next_one",
            "peers/test_postgres.py::test_a_proof_and_its_nonce_are_the_same_at_every_replica",
        ),
    ),
    # R-20: metadata.
    Behaviour(
        "R-20",
        "RFC 8414 sections 2 and 3.3; OpenID Connect Discovery section 3",
        "the metadata names what exists and nothing else, where clients look for it",
        (
            f"{_FLOWS}/test_metadata.py::test_a_server_with_everything_says_so",
            f"{_FLOWS}/test_metadata.py::test_what_is_not_there_is_not_advertised",
            f"{_FLOWS}/test_metadata.py::test_every_advertised_address_of_the_whole_server_is_served",
            f"{_FLOWS}/test_metadata.py::test_the_official_clients_find_it_where_they_look_and_read_it",
            f"{_FLOWS}/test_metadata.py::test_no_other_issuer_is_found_here",
        ),
    ),
    # R-20: codes and refresh tokens.
    Behaviour(
        "R-20",
        "RFC 7636 section 4; RFC 9700 section 2.1.1",
        "PKCE with S256 is the only way to redeem a code",
        (
            f"{_CORE}/test_oauth_pkce.py::test_the_verifier_of_the_rfc_fits_its_challenge",
            f"{_CORE}/test_oauth_pkce.py::test_a_challenge_that_is_not_s256_is_refused",
            f"{_CORE}/test_oauth_pkce.py::test_the_challenge_itself_is_no_verifier_because_plain_does_not_exist",
            "attacks/test_code_replay.py::TestInjection::test_a_wrong_verifier_uses_the_code_up",
        ),
    ),
    Behaviour(
        "R-20",
        "RFC 6749 section 4.1.2",
        "a code works once, whoever races, and its second use ends what came from the first",
        (
            "attacks/test_code_replay.py::TestReplay::test_a_second_use_is_refused_and_ends_all_that_came_from_the_first",
            "attacks/test_code_replay.py::TestRaces::test_of_fifty_parallel_redemptions_one_wins_and_its_grant_is_revoked",
            "attacks/test_code_replay.py::TestRaces::test_of_fifty_redemptions_at_four_replicas_one_wins",
            "contracts/test_code_store.py::test_of_redemptions_in_two_processes_one_wins",
        ),
    ),
    Behaviour(
        "R-20",
        "RFC 6749 section 4.1.3; RFC 9449 section 10",
        "a code is good for its client, redirect URI and key only",
        (
            "attacks/test_code_replay.py::TestInjection::test_another_client_cannot_use_a_code_nor_use_it_up",
            "attacks/test_code_replay.py::TestInjection::test_another_redirect_uri_uses_the_code_up",
            "attacks/test_code_replay.py::TestInjection::test_a_code_bound_to_a_key_is_nothing_without_it",
        ),
    ),
    Behaviour(
        "R-20",
        "RFC 9700 section 4.14.2",
        "refresh tokens are rotated, and a second use of one ends its family",
        (
            f"{_FLOWS}/test_refresh.py::TestRotation::test_each_use_gives_another_token_of_the_same_grant",
            "attacks/test_refresh_reuse.py::TestReuse::test_a_public_clients_second_use_ends_the_family_at_once",
            "attacks/test_refresh_reuse.py::TestReuse::test_a_token_of_any_age_is_known_as_used",
            "stateful/test_grants.py::test_grants_on_sqlite_are_as_the_model_says",
            "stateful/test_grants.py::test_grants_on_postgresql_are_as_the_model_says",
        ),
    ),
    Behaviour(
        "R-20",
        "ADR 10",
        "a retry of a rotation within 10 s gives who proves to be the client the same answer",
        (
            f"{_FLOWS}/test_refresh.py::TestRetry::test_an_authenticated_client_gets_the_identical_answer",
            "attacks/test_refresh_reuse.py::TestReuse::test_who_cannot_prove_the_key_gets_no_retry",
            "attacks/test_refresh_reuse.py::TestRaces::test_twenty_parallel_refreshes_of_an_authenticated_client_lose_nobody",
            "attacks/test_refresh_reuse.py::TestRaces::test_twenty_refreshes_at_four_replicas_lose_nobody_who_proves_who_they_are",
            f"{_FLOWS}/test_refresh.py::TestKeptAnswers::test_only_the_token_that_was_used_up_opens_the_answer",
        ),
    ),
    Behaviour(
        "R-20",
        "RFC 6749 section 6",
        "a refresh narrows and never widens, and looks at everything anew",
        (
            f"{_FLOWS}/test_refresh.py::TestNarrowing::test_scopes_are_never_widened",
            f"{_FLOWS}/test_refresh.py::TestNarrowing::test_resource_and_task_may_only_be_repeated",
            f"{_FLOWS}/test_refresh.py::TestLookedAtAnew::test_a_disabled_person_is_refused_and_nothing_is_revoked",
            f"{_FLOWS}/test_refresh.py::TestLookedAtAnew::test_a_person_who_is_gone_upstream_loses_the_grant",
        ),
    ),
    # R-20: device authorization.
    Behaviour(
        "R-20",
        "RFC 8628 sections 3.4 and 3.5",
        "a device waits, slower if it is told to, and gets what a person allowed once",
        (
            "unit/flows/test_device.py::TestPolling::test_polling_too_fast_makes_the_interval_longer_each_time",
            "unit/flows/test_device.py::TestPolling::test_of_twenty_parallel_polls_one_gets_the_tokens",
            "stateful/test_devices.py::test_device_codes_are_as_the_model_says",
            "peers/test_login.py::test_a_person_lets_a_terminal_in_and_later_out_again",
            "contracts/test_device_store.py::test_of_fifty_parallel_redemptions_one_wins",
            "peers/test_oauth_clients.py::test_a_device_waits_for_its_person",
            "peers/test_authserver_state.py::test_a_device_begins_here_its_person_decides_there",
        ),
    ),
    Behaviour(
        "R-20",
        "RFC 8628 section 5.1",
        "user codes cannot be guessed: tries are limited by address, before anybody looks",
        (
            "attacks/test_device.py::TestGuessing::test_an_address_that_guesses_is_stopped_after_five_tries_even_when_the_sixth_is_right",
            "attacks/test_device.py::TestGuessing::test_guesses_made_all_at_once_are_counted_too",
            "attacks/test_device.py::TestForgedDecisions::test_a_cookie_of_our_own_making_skips_no_limit",
        ),
    ),
    Behaviour(
        "R-20",
        "RFC 8628 section 5.4",
        "a person sees which code they let in, is warned of codes that others send, and is asked each time",
        (
            "attacks/test_device.py::TestPhishing::test_the_page_warns_and_shows_the_code_and_where_it_was_asked_for",
            "attacks/test_device.py::TestPhishing::test_consent_to_one_device_is_not_remembered_for_the_next",
            "attacks/test_device.py::TestForgedDecisions::test_a_page_that_one_person_saw_is_not_decided_on_by_another",
        ),
    ),
    Behaviour(
        "R-20",
        "RFC 8628 section 5.2, RFC 9449",
        "a device code is its client's and its key's alone",
        (
            "attacks/test_device.py::TestStolenCodes::test_a_device_code_is_its_clients_alone_and_trying_it_changes_nothing",
            "attacks/test_device.py::TestKeys::test_a_stolen_code_is_worth_nothing_without_the_key",
        ),
    ),
    # R-20: clients that nobody here wrote.
    Behaviour(
        "R-20",
        "R-20",
        "foreign OAuth clients get tokens in every way that the server has, and use them",
        (
            "peers/test_oauth_clients.py::test_a_public_client_by_code_and_pkce_and_its_token_is_used_and_refreshed",
            "peers/test_oauth_clients.py::test_a_client_with_a_secret_pushes_its_request_and_takes_its_token_back",
            "peers/test_oauth_clients.py::test_a_key_is_proven_at_every_step_from_the_pushed_request_to_the_call",
            "peers/test_oauth_clients.py::test_an_agent_by_its_key_alone",
            "peers/test_oauth_clients.py::test_an_agent_exchanges_its_users_token_for_one_that_names_both",
            "peers/test_authorization_conformance.py::test_every_scenario_for_authorization_servers_passes",
        ),
    ),
    Behaviour(
        "R-22",
        "MCP 2026-07-28, basic/authorization",
        "official MCP clients find the server, come by document or registration, log a person in and call a tool",
        (
            "peers/test_mcp_oauth.py::test_the_python_client",
            "peers/test_mcp_oauth.py::test_the_typescript_client",
            "peers/test_mcp_oauth.py::test_the_inspector",
        ),
    ),
    Behaviour(
        "R-61",
        "R-61",
        "what the authorization server knows is the same at every replica and outlives a crash of all of them",
        (
            "peers/test_authserver_state.py::test_a_code_of_one_is_redeemed_at_the_other_and_refreshed_in_turns",
            "peers/test_authserver_state.py::test_a_code_that_is_redeemed_at_both_at_once_is_redeemed_once",
            "peers/test_authserver_state.py::test_a_login_of_one_is_a_login_of_the_other",
            "peers/test_authserver_state.py::test_codes_tokens_logins_and_devices_outlive_a_crash_of_every_process",
        ),
    ),
    # R-23: introspection and revocation.
    Behaviour(
        "R-23",
        "RFC 7662 sections 2 and 4",
        "a client learns what its own good tokens say, and nobody learns that another's exists",
        (
            f"{_FLOWS}/test_introspect.py::TestAccessTokens::test_a_client_reads_what_its_own_good_token_says",
            "attacks/test_introspection.py::test_foreign_forged_unknown_and_malformed_tokens_cannot_be_told_apart",
            "attacks/test_introspection.py::test_only_clients_that_authenticate_may_ask",
        ),
    ),
    Behaviour(
        "R-23",
        "RFC 7009 section 2",
        "a client gives back its own tokens, a refresh token with its grant, and nobody else's",
        (
            f"{_FLOWS}/test_revoke.py::TestAccessTokens::test_a_cached_token_is_refused_from_the_next_request_on",
            f"{_FLOWS}/test_revoke.py::TestRefreshTokens::test_the_whole_family_ends_with_its_access_tokens",
            "attacks/test_revocation.py::test_nobody_can_revoke_what_is_not_theirs_and_nobody_learns_that_it_exists",
        ),
    ),
    # R-61: revocation.
    Behaviour(
        "R-61",
        "R-61; DESIGN, decision 18; ADR 16",
        "a token is refused by every replica at the next request once it, its grant, client or user was revoked",
        (
            "attacks/test_revocation.py::test_a_token_is_worth_nothing_once_it_or_where_it_comes_from_was_revoked",
            f"{_FLOWS}/test_revocations.py::test_another_issuers_token_of_the_same_names_is_not_concerned",
            "contracts/test_revocation_store.py::test_every_other_replica_acts_on_a_revocation_when_it_returns",
            "contracts/test_revocation_store.py::test_a_cached_view_shows_a_revocation_of_another_process_at_the_next_look",
            "unit/cli/test_serve.py::test_a_token_revoked_by_another_process_is_refused_at_its_next_request",
            "peers/test_postgres.py::test_a_token_given_back_at_one_replica_is_refused_by_every_replica_at_the_next_request",
        ),
    ),
    Behaviour(
        "R-61",
        "R-61; DESIGN, decision 18",
        "an agent or session that an operator cut off is refused by every replica at the next request",
        (
            "peers/test_postgres.py::test_an_agent_disabled_by_the_command_line_is_refused_by_every_replica_at_the_next_request",
            "peers/test_postgres.py::test_a_session_ended_by_the_command_line_is_refused_by_every_replica_at_the_next_request",
            "contracts/test_revision.py::test_the_revision_shows_a_change_of_another_process_at_once",
        ),
    ),
    Behaviour(
        "R-61",
        "DESIGN, decision 18; ADR 7",
        "no delay, loss or race lets a replica act on what was true before a change that is in force",
        (
            "stateful/test_leases.py::test_once_a_change_is_in_force_no_replica_acts_on_what_was_before",
            "peers/test_postgres.py::test_a_replica_that_was_frozen_while_an_agent_was_disabled_refuses_as_soon_as_it_wakes",
            "unit/stores/test_leased_revision.py::test_without_announcements_a_change_is_in_force_all_the_same",
            "unit/stores/test_leased_revision.py::test_a_change_waits_out_the_lease_of_a_replica_that_is_gone_and_strikes_it_off",
        ),
    ),
    # R-90: one process with SQLite, several with PostgreSQL.
    Behaviour(
        "R-90",
        "R-90; RFC 7523 section 3",
        "what was used once at one replica is used up at all of them, and limits hold across them",
        (
            "peers/test_postgres.py::test_a_client_assertion_that_one_replica_took_is_refused_by_the_other",
            "peers/test_postgres.py::test_tasks_declared_at_once_at_both_replicas_do_not_pass_the_limit",
            "contracts/test_replay_store.py::test_of_redemptions_in_two_processes_one_wins",
        ),
    ),
    Behaviour(
        "R-90",
        "R-90; DESIGN, decision 17",
        "without the database every call is refused, and with it served again without a restart",
        (
            "peers/test_postgres.py::test_without_the_database_every_call_is_refused_and_with_it_served_again_without_a_restart",
        ),
    ),
    Behaviour(
        "R-90",
        "DESIGN, decision 22 and Security rules",
        "the database's password comes from a closed file only, and a server elsewhere is verified over TLS",
        (
            "unit/stores/test_postgres.py::test_a_wrong_password_or_none_is_refused_whatever_the_environment_offers",
            "unit/stores/test_postgres.py::test_a_server_elsewhere_that_speaks_no_tls_is_told_nothing",
            "unit/stores/test_postgres.py::test_over_tls_the_servers_name_and_its_ca_are_verified",
            "unit/test_config_store_url.py::test_a_password_in_the_url_is_refused_not_repeated_and_told_its_place",
        ),
    ),
    Behaviour(
        "R-90",
        "R-90",
        "one process on SQLite does the whole job",
        (
            "peers/test_demo.py::test_every_step_of_the_demo_goes_as_it_must",
            "peers/test_demo.py::test_without_a_browser_nobody_approves_and_the_call_is_denied",
            "peers/test_demo.py::test_the_kept_demo_prints_one_line_and_serves_until_sigterm",
        ),
    ),
    Behaviour(
        "R-90",
        "R-90",
        "no state is held by one replica that another lacks",
        (
            "contracts/test_session_store.py::test_two_processes_declaring_tasks_at_once_get_one_session",
            f"{_FLOWS}/test_seal.py::test_another_replica_with_the_same_key_opens_it_and_one_with_another_key_does_not",
        ),
    ),
    Behaviour(
        "R-90",
        "R-90",
        "a changed configuration is taken without dropping a call, whole or not at all",
        (
            "crash/test_reload.py::test_reloads_under_load_drop_no_call_and_hold_for_every_request_after_them",
            "crash/test_reload.py::test_calls_under_way_end_as_they_began_though_their_servers_are_gone_from_the_file",
            "unit/cli/test_reload.py::test_what_needs_a_restart_refuses_the_reload_and_all_that_came_with_it",
            "unit/cli/test_reload.py::test_certificate_and_key_are_read_anew_and_open_connections_go_on",
        ),
    ),
    Behaviour(
        "R-90",
        "R-90",
        "only the serving user reloads, and a reload signals no other process",
        (
            "attacks/test_reload.py::test_files_that_others_could_have_written_signal_nobody",
            "attacks/test_reload.py::test_a_planted_status_signals_nobody_while_nobody_serves",
            "attacks/test_reload.py::test_another_user_cannot_reload",
            "attacks/test_reload.py::test_nothing_on_the_network_reloads",
        ),
    ),
    Behaviour(
        "R-90",
        "R-90",
        "a reload narrows open sessions at once and widens none",
        (
            "attacks/test_reload.py::test_a_reload_narrows_open_sessions_and_cached_tokens_at_once",
            "attacks/test_reload.py::test_a_reload_widens_no_session_that_is_open",
        ),
    ),
    Behaviour(
        "R-90",
        "R-90",
        "a stopping process is not ready, and loses no call on an open connection",
        (
            "crash/test_reload.py::test_draining_is_unready_and_answers_what_comes_on_open_connections_before_it_closes_them",
            "crash/test_reload.py::test_no_call_on_an_open_connection_is_lost_to_a_stop",
        ),
    ),
    Behaviour(
        "R-90",
        "R-90",
        "a killed process loses no answered call",
        (
            "crash/test_kill.py::test_after_kill_9_under_load_the_trail_holds_every_answered_call_and_no_process_is_left",
        ),
    ),
    # R-06, R-10, R-26: tokens for tokens of others.
    Behaviour(
        "R-06",
        "SPIFFE JWT-SVID section 3; RFC 7523 section 3",
        "a workload's token counts for its platform, subject, audience and life, and for nothing else",
        (
            f"{_CORE}/test_oauth_workload_token.py::test_a_claim_that_is_not_as_it_must_be_is_refused",
            f"{_CORE}/test_oauth_workload_token.py::test_a_subject_that_is_no_spiffe_id_of_this_domain_is_refused",
            f"{_CORE}/test_oauth_workload_token.py::test_a_service_account_that_its_cluster_does_not_confirm_is_refused",
            "attacks/test_jwt_bearer.py::test_a_workload_token_for_another_audience_is_refused",
            "attacks/test_jwt_bearer.py::test_one_platforms_key_signs_nothing_for_another",
        ),
    ),
    Behaviour(
        "R-06",
        "R-06",
        "a SPIFFE workload and a Kubernetes pod call tools without being clients, until their binding ends",
        (
            "unit/test_vouching.py::test_a_spiffe_workload_calls_a_tool_without_being_a_client",
            "unit/test_vouching.py::test_so_does_a_pod_whose_clusters_keys_are_discovered",
            "unit/test_vouching.py::test_reloading_without_the_binding_ends_the_tokens_that_came_by_it",
            "unit/test_vouching.py::test_a_rotated_bundle_holds_from_the_next_request_on",
        ),
    ),
    Behaviour(
        "R-10",
        "RFC 8693 section 4.1; R-10",
        "the result of an exchange names the user and the agent that acts, and both must be good at gate one",
        (
            f"{_FLOWS}/test_exchange.py::test_the_result_names_the_user_and_the_agent_that_acts",
            f"{_FLOWS}/test_exchange.py::test_gate_one_takes_the_bearer_for_the_agent_with_the_user_behind_it",
            f"{_FLOWS}/test_exchange.py::test_who_acted_before_is_kept_inside",
            "attacks/test_exchange.py::test_an_issuers_actors_cannot_be_ours",
        ),
    ),
    Behaviour(
        "R-10",
        "RFC 8693 section 4.4; R-10",
        "a captured token is worth nothing to who is not named in it",
        (
            "attacks/test_exchange.py::test_a_captured_token_of_another_client_is_refused",
            "attacks/test_exchange.py::test_what_the_exchanger_is_called_here_means_nothing_at_another_issuer",
            f"{_CORE}/test_oauth_exchange.py::test_at_another_issuer_only_the_names_there_count",
        ),
    ),
    Behaviour(
        "R-10",
        "RFC 8693 section 5; R-10",
        "an exchange widens neither scope nor task nor resource nor time, and ends with the grant behind it",
        (
            "attacks/test_exchange.py::test_scopes_never_widen",
            "attacks/test_exchange.py::test_a_task_cannot_be_swapped_or_shed",
            "attacks/test_exchange.py::test_a_resource_that_is_not_the_exchangers_is_refused",
            "attacks/test_exchange.py::test_an_exchange_wins_no_time",
            f"{_FLOWS}/test_exchange.py::test_revoking_the_grant_behind_the_subject_token_ends_the_result_too",
            f"{_CORE}/test_oauth_exchange.py::test_scopes_only_ever_narrow",
        ),
    ),
    Behaviour(
        "R-10",
        "R-10",
        "without the user's consent to the exchanger there is no token",
        (
            f"{_FLOWS}/test_exchange.py::test_without_the_users_consent_there_is_nothing",
            f"{_FLOWS}/test_exchange.py::test_consent_is_for_the_scopes_that_are_given",
            "attacks/test_exchange.py::test_consent_to_one_client_is_none_to_another",
        ),
    ),
    Behaviour(
        "R-10",
        "RFC 8725 section 3.12",
        "ID tokens, assertions and other issuers' tokens are no subject tokens",
        (
            "attacks/test_exchange.py::test_an_id_token_or_any_other_token_is_no_subject_token",
            "attacks/test_exchange.py::test_workload_tokens_and_assertions_are_no_subject_tokens",
            "attacks/test_exchange.py::test_an_issuer_that_may_not_give_subject_tokens_gives_none",
        ),
    ),
    Behaviour(
        "R-10",
        "RFC 8693 section 2.2.2; RFC 8725 section 3.12",
        "what was cut is no subject token either, and every kind of token passes only where it belongs",
        (
            f"{_TOKENS}::TestTokensOfAgentsThatWereCut::test_a_token_of_a_disabled_agent_is_worth_nothing_to_whom_it_names",
            f"{_TOKENS}::TestTokensOfAgentsThatWereCut::test_another_issuers_token_of_a_disabled_agent_is_worth_nothing",
            f"{_TOKENS}::test_a_token_passes_only_where_its_kind_belongs_even_if_all_were_signed_by_one_key",
        ),
    ),
    Behaviour(
        "R-24",
        "R-24",
        "replacing a password or removing a passkey leaves nothing to who had it, even in the middle of a login",
        (
            f"{_REVIEWED_PEOPLE}::test_a_login_by_the_old_password_does_not_outlive_its_replacement",
            f"{_REVIEWED_PEOPLE}::test_a_change_by_the_old_password_does_not_undo_its_replacement",
            f"{_REVIEWED_PEOPLE}::test_a_password_whose_hash_is_made_anew_at_the_login_still_logs_in",
            f"{_REVIEWED_PEOPLE}::test_removing_a_passkey_ends_the_logins_that_its_thief_has",
            f"{_REVIEWED_PEOPLE}::test_a_passkey_that_is_removed_in_the_middle_of_a_login_gives_none",
            f"{_REVIEWED_PEOPLE}::test_a_passkey_that_is_removed_in_the_middle_of_enrolling_another_leaves_none",
        ),
    ),
    Behaviour(
        "R-20",
        "RFC 6749 section 10.2",
        "a consent ends with the person or client that it was about, and taking one back names a client",
        (
            f"{_REVIEWED_PEOPLE}::test_who_was_locked_out_is_asked_anew_when_let_in_again",
            f"{_REVIEWED_PEOPLE}::test_nobody_has_agreed_to_the_next_client_of_an_id",
            f"{_REVIEWED_PEOPLE}::test_a_person_of_another_tenant_is_not_logged_in_here_whatever_they_agreed_to",
            f"{_REVIEWED_PEOPLE}::test_taking_access_back_from_what_is_no_client_writes_nothing",
        ),
    ),
    Behaviour(
        "R-24",
        "R-24",
        "no name is told apart by what nobody sees, and no link makes our pages say anything",
        (
            f"{_REVIEWED_PEOPLE}::test_nobody_is_called_as_somebody_else_but_for_what_nobody_sees",
            f"{_REVIEWED_PEOPLE}::test_a_client_without_a_name_that_is_seen_has_none",
            f"{_REVIEWED_PEOPLE}::test_a_link_to_the_login_page_cannot_make_it_say_anything",
        ),
    ),
    Behaviour(
        "R-20",
        "RFC 9700 section 4.11.2",
        "who may register at will opens no application from our address before a person agreed",
        (f"{_REVIEWED_PEOPLE}::test_a_registered_client_cannot_open_applications_before_anybody_agreed",),
    ),
    Behaviour(
        "R-37",
        "R-37",
        "no address fills the store with requests and logins that wait for a person",
        (
            f"{_REVIEWED_PEOPLE}::test_an_address_cannot_fill_the_store_with_requests_that_wait",
            f"{_REVIEWED_PEOPLE}::test_an_address_cannot_fill_the_store_with_logins_at_a_provider",
        ),
    ),
    Behaviour(
        "R-24",
        "R-24",
        "no request whatsoever makes a page fail",
        (f"{_REVIEWED_PEOPLE}::test_no_request_whatsoever_makes_a_page_fail",),
    ),
    Behaviour(
        "R-61",
        "RFC 7009 section 2.1",
        "codes that were not redeemed end with what they were given for: access withdrawn, a person disabled",
        (
            f"{_TOKENS}::TestWhatIsTakenBackBeforeItWasRedeemed::test_withdrawing_ends_a_code_that_the_client_kept",
            f"{_TOKENS}::TestWhatIsTakenBackBeforeItWasRedeemed::test_withdrawing_ends_what_a_device_was_allowed_and_did_not_fetch",
            f"{_TOKENS}::TestWhatIsTakenBackBeforeItWasRedeemed::test_letting_a_person_in_again_brings_back_no_code_of_before",
        ),
    ),
    Behaviour(
        "R-23",
        "RFC 6749 section 6",
        "what a person granted a client is worth nothing once the client is gone or acts as another agent",
        (
            f"{_TOKENS}::TestReloads::test_a_client_that_is_gone_takes_its_tokens_grants_and_codes_along",
            f"{_TOKENS}::TestReloads::test_what_was_granted_to_a_client_is_not_granted_to_another_agent",
        ),
    ),
    Behaviour(
        "R-20",
        "RFC 6749 section 5.2",
        "whatever bytes are posted, the answer is an OAuth answer and never a failure of the server",
        (
            f"{_FLOWS}/test_forms_fuzz.py::test_any_form_gets_an_oauth_answer",
            f"{_FLOWS}/test_forms_fuzz.py::test_any_registration_gets_an_oauth_answer",
            f"{_FLOWS}/test_forms_fuzz.py::test_a_well_signed_token_with_any_claims_gets_an_oauth_answer",
        ),
    ),
    Behaviour(
        "R-26",
        "RFC 9449 section 11.1",
        "who names no client and shows no good assertion makes the replay store remember nothing",
        (
            f"{_TOKENS}::TestProofsOfStrangers::test_who_shows_no_good_assertion_makes_the_store_remember_nothing",
            f"{_TOKENS}::TestProofsOfStrangers::test_a_workloads_proof_is_good_once",
        ),
    ),
    Behaviour(
        "R-26",
        "draft-ietf-oauth-identity-assertion-authz-grant section 6; MCP, Enterprise-Managed Authorization",
        "an ID-JAG is good once, for the client, server, resource and scopes that it names",
        (
            "attacks/test_jwt_bearer.py::test_an_id_jag_is_good_once",
            "attacks/test_jwt_bearer.py::test_of_many_at_once_one_wins",
            "attacks/test_jwt_bearer.py::test_an_id_jag_for_another_client_is_refused",
            "attacks/test_jwt_bearer.py::test_an_id_jag_opens_no_other_resource",
            "attacks/test_jwt_bearer.py::test_an_id_jag_widens_no_scope",
            f"{_CORE}/test_oauth_id_jag.py::test_a_claim_that_is_not_as_it_must_be_is_refused",
        ),
    ),
    Behaviour(
        "R-26",
        "RFC 7523 section 3; RFC 8725 section 3.12",
        "assertions, client assertions and access tokens are never taken for one another",
        (
            "attacks/test_jwt_bearer.py::test_a_client_assertion_is_no_grant",
            "attacks/test_jwt_bearer.py::test_a_grant_is_no_client_assertion",
            "attacks/test_jwt_bearer.py::test_our_own_tokens_are_no_assertions",
            "attacks/test_jwt_bearer.py::test_an_id_jag_is_no_workload_token_and_the_other_way_around",
        ),
    ),
    Behaviour(
        "R-26",
        "MCP, Enterprise-Managed Authorization; RFC 8414 section 2",
        "metadata says which of these grants the configuration lets in",
        (
            "unit/test_vouching.py::test_metadata_names_what_the_configuration_lets_in",
            "unit/test_vouching.py::test_without_anybody_who_vouches_the_grant_does_not_exist",
        ),
    ),
    # R-21: dynamic registration.
    Behaviour(
        "R-21",
        "RFC 7591 section 3; R-21",
        "who registers gets a public client and is told what was registered, or what to change",
        (
            f"{_FLOWS}/test_register.py::test_the_answer_says_what_was_registered",
            f"{_FLOWS}/test_register.py::test_whatever_is_asked_for_it_becomes_a_public_client",
            f"{_FLOWS}/test_register.py::test_an_error_says_what_to_change",
        ),
    ),
    Behaviour(
        "R-21",
        "RFC 7591 section 3; R-21",
        "an initial access token registers one client, whoever else uses it at the same moment",
        (
            f"{_FLOWS}/test_register.py::test_without_a_good_token_nobody_registers",
            "contracts/test_registration_store.py::test_of_fifty_registrations_with_one_token_one_wins",
        ),
    ),
    Behaviour(
        "R-21",
        "R-21",
        "open registration is limited, and unused clients expire",
        (
            f"{_FLOWS}/test_register.py::test_an_address_registers_only_so_often",
            f"{_FLOWS}/test_register.py::test_a_client_that_gets_a_token_lives_on",
            "contracts/test_registration_store.py::test_there_are_never_more_than_allowed_at_once",
            "contracts/test_registration_store.py::test_expired_clients_go_in_batches",
        ),
    ),
    Behaviour(
        "R-21",
        "RFC 7592 section 2",
        "a client manages itself and no other",
        (
            f"{_FLOWS}/test_register.py::test_a_client_reads_changes_and_removes_itself",
            "attacks/test_registration.py::test_a_client_cannot_read_change_or_remove_another",
        ),
    ),
    Behaviour(
        "R-21",
        "RFC 8252 section 7; RFC 9700 section 4.1.3; R-21",
        "redirect URIs are compared exactly, but for the port of loopback ones",
        (
            f"{_CORE}/test_oauth_redirect_uri.py::test_everything_else_is_compared_character_by_character",
            f"{_CORE}/test_oauth_redirect_uri.py::test_any_port_of_http_to_this_machine_is_the_same",
            f"{_CORE}/test_oauth_redirect_uri.py::test_what_browsers_could_read_in_another_way_is_refused_and_never_matches",
        ),
    ),
    Behaviour(
        "R-21",
        "DESIGN decisions 1 and 18; R-21",
        "a client that was removed is out at the next request, and its id brings nothing back",
        (
            "attacks/test_clients.py::test_a_removed_clients_token_is_refused_at_the_next_call",
            "attacks/test_clients.py::test_an_id_that_is_free_again_does_not_bring_old_tokens_back",
        ),
    ),
    # R-22: client ID metadata documents.
    Behaviour(
        "R-22",
        "draft-ietf-oauth-client-id-metadata-document-01; R-22",
        "only documents that an operator let in are fetched",
        (
            f"{_FLOWS}/test_cimd.py::test_what_nobody_let_in_is_unknown_and_never_fetched",
            "attacks/test_cimd.py::test_a_client_that_nobody_let_in_is_unknown_without_any_lookup",
        ),
    ),
    Behaviour(
        "R-22",
        "draft-ietf-oauth-client-id-metadata-document-01 section 6; OWASP SSRF; R-22",
        "no document leads inside, whatever its name resolves to and whenever",
        (
            "attacks/test_cimd.py::test_an_allowed_name_that_leads_inside_is_never_connected_to",
            "attacks/test_cimd.py::test_a_name_that_is_moved_inside_afterwards_is_judged_anew",
            "attacks/test_cimd.py::test_keys_are_not_fetched_from_inside_either",
        ),
    ),
    Behaviour(
        "R-22",
        "draft-ietf-oauth-client-id-metadata-document-01 sections 4 and 6; R-22",
        "a document that is wrong, ambiguous, slow, large or moved makes nobody a client",
        (
            "attacks/test_cimd.py::test_a_document_that_is_not_good_makes_nobody_a_client",
            f"{_CORE}/test_oauth_cimd.py::test_what_two_parsers_could_read_differently_is_refused",
            f"{_CORE}/test_oauth_cimd.py::test_the_documents_client_id_is_the_very_url",
        ),
    ),
    Behaviour(
        "R-22",
        "RFC 9111; R-22",
        "documents are kept as their headers say, failures are not, and nobody can make us hammer a host",
        (
            f"{_FLOWS}/test_cimd.py::test_a_document_is_kept_as_its_headers_say_within_limits",
            f"{_FLOWS}/test_cimd.py::test_an_allowlist_entry_has_a_budget_whatever_urls_strangers_make_up",
            "attacks/test_cimd.py::test_a_broken_document_is_not_fetched_for_every_request",
        ),
    ),
    Behaviour(
        "R-22",
        "RFC 7523 section 2.2; DESIGN decision 1; R-22",
        "a bound document with keys is its agent, and no other document is any",
        (
            "attacks/test_cimd.py::test_an_agent_gets_a_token_by_the_key_in_its_document",
            "attacks/test_cimd.py::test_another_key_than_the_documents_is_refused",
            "attacks/test_cimd.py::test_a_document_of_a_domain_is_never_an_agent_whatever_it_says",
        ),
    ),
    # R-24, R-25: logins at upstream providers.
    Behaviour(
        "R-24",
        "OpenID Connect Core section 3.1; RFC 7636",
        "people log in through an upstream provider with state, nonce and PKCE",
        (
            "unit/flows/test_upstream_login.py::test_the_browser_is_sent_on_with_state_nonce_and_pkce",
            "unit/flows/test_upstream_login.py::test_a_person_logs_in_and_goes_on_to_where_the_login_was_needed",
            "contracts/test_upstream_stores.py::test_of_returns_in_two_processes_one_wins",
        ),
    ),
    Behaviour(
        "R-24",
        "OpenID Connect Core section 3.1.3.7",
        "an ID token is this provider's, for us alone, fresh, and of this login",
        (
            "unit/core/test_oauth_id_token.py::test_a_token_of_another_client_too_is_refused",
            "unit/core/test_oauth_id_token.py::test_a_token_of_another_login_is_refused",
            "unit/core/test_oauth_id_token.py::test_every_other_type_is_something_else",
            "attacks/test_upstream_login.py::test_an_id_token_that_is_not_this_logins_is_refused",
            "attacks/test_upstream_login.py::test_no_algorithm_but_the_configured_ones_and_no_key_of_the_tokens_own",
        ),
    ),
    Behaviour(
        "R-24",
        "RFC 9207; RFC 9700 section 4.4",
        "providers are never mixed up, and a code goes to its own provider only",
        (
            "attacks/test_upstream_login.py::test_a_response_that_another_provider_sends_is_not_answered_with_the_code",
            "attacks/test_upstream_login.py::test_a_code_that_comes_to_another_providers_redirect_uri_goes_nowhere",
            "attacks/test_upstream_login.py::test_a_response_must_name_the_provider_that_says_so_of_itself",
        ),
    ),
    Behaviour(
        "R-24",
        "RFC 9700 section 4.7; RFC 6749 section 10.12",
        "a login is finished once, in the browser in which it began",
        (
            "attacks/test_upstream_login.py::test_a_callback_works_once",
            "attacks/test_upstream_login.py::test_a_callback_in_another_browser_logs_nobody_in",
            "attacks/test_upstream_login.py::test_fifty_callbacks_at_once_log_in_once_and_ask_the_provider_once",
            "attacks/test_upstream_login.py::test_one_login_cannot_be_finished_with_anothers_code",
        ),
    ),
    Behaviour(
        "R-24",
        "R-22; OWASP SSRF",
        "a provider's metadata cannot point requests inside",
        (
            "attacks/test_upstream_login.py::test_a_token_endpoint_inside_gets_neither_code_nor_secret",
            "attacks/test_upstream_login.py::test_keys_inside_are_not_fetched",
            "attacks/test_upstream_login.py::test_another_port_of_the_issuers_host_is_another_server",
        ),
    ),
    Behaviour(
        "R-24",
        "R-24",
        "who is removed upstream loses access at the next refresh; while nobody can tell, nothing is given or lost",
        (
            "unit/flows/test_upstream_login.py::test_a_person_who_is_gone_loses_everything",
            "unit/flows/test_upstream_login.py::test_while_the_provider_is_away_nothing_is_given_and_nothing_is_lost",
            "unit/flows/test_upstream_login.py::test_without_a_refresh_token_everything_ends_after_an_hour",
            "peers/test_upstream_login.py::test_who_is_removed_at_the_provider_loses_access_at_the_next_refresh",
        ),
    ),
    Behaviour(
        "R-24",
        "RFC 9700 section 4.14.2",
        "of all processes one redeems a provider's refresh token, and the new one is not lost",
        (
            "unit/flows/test_upstream_login.py::test_of_many_refreshes_at_once_one_asks",
            "unit/flows/test_upstream_login.py::test_a_client_that_goes_away_loses_no_rotated_token",
            "unit/flows/test_upstream_login.py::test_a_token_that_the_store_did_not_take_is_told_of_and_used_next",
            "contracts/test_upstream_stores.py::test_of_askers_in_two_processes_one_wins",
        ),
    ),
    Behaviour(
        "R-25",
        "R-25",
        "groups come from the provider at each login and refresh, and decide who comes in",
        (
            "unit/flows/test_upstream_login.py::test_groups_are_read_anew_and_who_is_in_none_of_them_any_more_is_out",
            "unit/flows/test_upstream_login.py::test_a_person_whom_the_configuration_does_not_let_in_stays_out",
            "unit/flows/test_upstream_login.py::test_anyone_comes_in_only_where_that_is_said",
        ),
    ),
    # R-20, R-24: the authorization endpoint and consent.
    Behaviour(
        "R-20",
        "RFC 9700 section 4.1; RFC 8252 section 7.3",
        "an answer goes to a registered redirect URI, compared exactly, or nowhere",
        (
            "attacks/test_authorize.py::TestRedirectTricks::test_a_redirect_uri_that_is_not_the_registered_one_leads_nowhere",
            "attacks/test_authorize.py::TestRedirectTricks::test_only_the_port_of_a_loopback_address_is_free",
            "attacks/test_authorize.py::TestOpenRedirection::test_an_error_does_not_lead_to_a_client_that_nobody_vouches_for",
        ),
    ),
    Behaviour(
        "R-20",
        "OAuth 2.1 section 4.1.1; RFC 7636",
        "there is no code without PKCE by S256, and none for who has another verifier",
        (
            "attacks/test_authorize.py::TestCodeInjection::test_a_code_without_pkce_does_not_exist",
            "attacks/test_authorize.py::TestCodeInjection::test_a_stolen_code_is_of_no_use_in_the_attackers_own_flow",
        ),
    ),
    Behaviour(
        "R-20",
        "RFC 9207",
        "every authorization response names its issuer",
        ("attacks/test_authorize.py::TestMixUp::test_every_way_an_answer_can_go_names_the_issuer",),
    ),
    Behaviour(
        "R-20",
        "RFC 9126",
        "a pushed request works once, for its client, whatever the browser adds",
        (
            f"{_FLOWS}/test_par.py::test_it_works_once",
            f"{_FLOWS}/test_par.py::test_it_is_the_clients_own_and_another_client_does_not_even_use_it_up",
            f"{_FLOWS}/test_par.py::test_what_the_browser_adds_is_ignored",
        ),
    ),
    Behaviour(
        "R-20",
        "RFC 6749 section 3.1",
        "a parameter given twice is refused",
        ("attacks/test_authorize.py::TestParameterPollution::test_a_parameter_given_twice_is_refused",),
    ),
    Behaviour(
        "R-24",
        "R-24",
        "a person decides in the browser that the request began in, on a page of ours, once",
        (
            "attacks/test_authorize.py::TestForgedDecisions::test_another_site_cannot_post_the_decision",
            "attacks/test_authorize.py::TestForgedDecisions::test_a_victim_cannot_be_made_to_answer_the_attackers_request",
            f"{_FLOWS}/test_authorize.py::TestComingBack::test_of_parallel_decisions_one_passes",
            "contracts/test_authorize_request_store.py::test_of_answers_in_two_processes_one_passes",
            "browser/test_consent.py::test_allowing_leads_to_the_client_with_a_code_and_no_referrer",
            "browser/test_consent.py::test_a_page_of_another_site_cannot_show_it_in_a_frame",
        ),
    ),
    Behaviour(
        "R-24",
        "R-24; RFC 8252 section 8.6",
        "a consent is for one person, client, resource, task and its scopes, and ends when the client changes",
        (
            f"{_FLOWS}/test_authorize.py::TestConsents::test_more_is_asked_anew",
            f"{_FLOWS}/test_authorize.py::TestConsents::test_a_changed_client_is_allowed_anew",
            f"{_FLOWS}/test_authorize.py::TestConsents::test_programs_on_a_device_that_prove_nothing_are_asked_about_each_time",
        ),
    ),
    Behaviour(
        "R-24",
        "R-24",
        "the consent page says in words who asks for what, where and for how long",
        (
            "unit/web/test_pages.py::TestConsentPage::test_it_says_in_words_who_asks_for_what_where_and_how_long",
            f"{_FLOWS}/test_consent_view.py::test_a_task_is_told_with_the_tools_of_that_server_and_those_that_need_an_approval",
            "attacks/test_authorize.py::TestHostileNames::test_a_name_is_text_and_cannot_reorder_the_page",
        ),
    ),
    # R-24: people.
    Behaviour(
        "R-24",
        "R-24; RFC 9106 section 4",
        "passwords are argon2id hashes, verified with the same work for everybody, a few at once",
        (
            "unit/adapters/test_passwords.py::test_hashes_are_argon2id_as_rfc_9106_recommends",
            "unit/adapters/test_passwords.py::test_few_are_computed_at_once_and_not_on_the_event_loop",
            "attacks/test_login.py::test_the_same_work_is_done_for_nobody_as_for_somebody",
            "attacks/test_login.py::test_a_wrong_password_an_unknown_name_and_an_unknown_tenant_look_the_same",
            f"{_FLOWS}/test_logins.py::TestHashes::test_a_hash_with_old_parameters_is_replaced_at_the_next_login",
        ),
    ),
    Behaviour(
        "R-24",
        "R-24",
        "guessing costs ever more time, and locks nobody out",
        (
            "attacks/test_login.py::test_guessing_costs_ever_more_time_up_to_a_cap",
            "attacks/test_login.py::test_guesses_made_all_at_once_are_counted_one_by_one",
            "attacks/test_login.py::test_a_stranger_cannot_lock_the_owner_out_of_a_browser_that_knows_them",
            "attacks/test_login.py::test_a_stranger_elsewhere_cannot_lock_the_owner_out_of_any_browser",
            "attacks/test_login.py::test_passkeys_are_never_locked",
            "stateful/test_login_lockout.py::TestLockout",
            "contracts/test_user_store.py::test_of_many_tries_at_once_only_the_free_ones_begin",
        ),
    ),
    Behaviour(
        "R-24",
        "R-24",
        "passkeys change only after a passkey was just used or by an operator's link, never by a password alone",
        (
            "attacks/test_passkey_enrolment.py::test_a_password_login_cannot_enrol",
            "attacks/test_passkey_enrolment.py::test_an_upstream_login_cannot_enrol",
            "attacks/test_passkey_enrolment.py::test_a_passkey_login_that_is_five_minutes_old_cannot_enrol_or_remove",
            "attacks/test_passkey_enrolment.py::test_a_password_reset_by_link_does_not_allow_enrolling",
            "browser/test_passkeys.py::test_a_stolen_password_leads_to_no_passkey",
            "browser/test_passkeys.py::test_a_second_passkey_is_added_and_the_first_removed_after_a_login_by_passkey",
        ),
    ),
    Behaviour(
        "R-24",
        "R-24; WebAuthn Level 3 sections 7.1 and 7.2",
        "a passkey's answer counts once, from the browser it was asked of, at our origin, with the user verified",
        (
            "attacks/test_passkey_enrolment.py::test_an_answer_that_was_not_made_for_us_enrols_nothing",
            "attacks/test_passkey_enrolment.py::test_a_challenge_is_good_for_one_browser",
            "attacks/test_login.py::test_an_answer_sent_many_times_at_once_works_once",
            "attacks/test_login.py::test_an_answer_that_was_not_made_for_us_logs_nobody_in",
            "browser/test_passkeys.py::test_a_new_person_sets_a_password_and_a_passkey_and_logs_in_without_a_name",
            "browser/test_passkeys.py::test_a_copied_passkey_is_noticed_by_its_count",
        ),
    ),
    Behaviour(
        "R-24",
        "R-24",
        "an operator's link works once, in one browser, and only for what it was made",
        (
            "attacks/test_passkey_enrolment.py::test_a_link_is_used_up_by_the_first_who_sends_it_and_looking_changes_nothing",
            "attacks/test_passkey_enrolment.py::test_a_newer_link_voids_the_older_and_the_setup_begun_by_it",
            "contracts/test_user_store.py::test_a_link_is_used_once_by_one_of_many",
            "contracts/test_user_store.py::test_a_step_is_taken_once_by_one_of_many",
            "browser/test_passkeys.py::test_a_link_works_once_and_looking_at_it_does_not_use_it_up",
        ),
    ),
    Behaviour(
        "R-24",
        "R-24",
        "a login is one browser's, has a new cookie each time, and ends at logout, in time and with its person",
        (
            "attacks/test_login.py::test_a_login_gets_a_new_cookie_and_the_one_before_stands_for_nothing",
            "attacks/test_login.py::test_a_login_ends_by_itself_and_when_its_person_is_disabled",
            "attacks/test_login.py::test_logging_out_ends_the_login_itself_and_not_only_the_cookie",
            "contracts/test_user_store.py::test_disabling_ends_everything_of_one_person_and_of_nobody_else",
            "browser/test_passkeys.py::test_disabling_a_person_ends_their_login_at_the_next_request",
        ),
    ),
    Behaviour(
        "R-24",
        "R-24",
        "people see who has access through them, and take it back",
        (
            f"{_FLOWS}/test_logins.py::test_the_account_page_shows_who_has_access_and_takes_it_back",
            f"{_FLOWS}/test_logins.py::test_a_client_that_registered_itself_is_not_known_by_its_name_alone",
        ),
    ),
    Behaviour(
        "R-34",
        "R-34",
        "people learn of calls that wait, at least once and by one of several replicas, whatever else fails",
        (
            "contracts/test_notice_store.py::test_people_are_told_at_once_reminded_escalated_and_told_the_end",
            "contracts/test_notice_store.py::test_a_restart_loses_nothing",
            "contracts/test_notice_store.py::test_of_many_replicas_one_tells",
            "contracts/test_notice_store.py::test_who_dies_between_sending_and_noting_is_followed_by_few_more",
            "contracts/test_notice_store.py::test_a_dead_channel_holds_up_no_other_and_the_trail_says_what_it_missed",
            "contracts/test_notice_store.py::test_a_tenant_has_so_many_messages_a_minute_and_the_last_stands_for_the_rest",
            "attacks/test_notifications.py::test_a_hanging_channel_leaves_the_call_waiting_and_the_others_told",
            "peers/test_mail_server.py::test_a_mail_arrives_over_tls_for_everybody",
        ),
    ),
    Behaviour(
        "R-34",
        "Standard Webhooks 1.0.0; RFC 5322; RFC 3207",
        "messages to people hold nothing secret and nothing of a stranger's but plain names, and cannot be forged",
        (
            "attacks/test_notifications.py::test_no_argument_is_in_any_message",
            "attacks/test_notifications.py::test_names_are_no_markup_in_slack",
            "attacks/test_notifications.py::test_names_add_nothing_to_a_mails_head",
            "attacks/test_notifications.py::test_a_webhook_is_verified_as_documented_and_nothing_else_is",
            "attacks/test_notifications.py::test_a_redirect_is_not_followed",
            "attacks/test_notifications.py::test_nothing_is_said_to_a_mail_server_without_tls",
        ),
    ),
    # R-93: guides.
    Behaviour(
        "R-93",
        "R-93",
        "the guides for Keycloak, Okta, Auth0, Entra ID and Google load, and their tokens are read as they say",
        (
            "unit/test_docs_issuers.py::test_there_is_a_guide_for_each_of_the_five_and_each_shows_tokens_that_pass_and_one_that_does_not",
            "unit/test_docs_issuers.py::test_a_sample_token_is_read_as_its_table_says",
            "unit/test_docs_issuers.py::test_a_sample_token_for_something_else_is_refused",
        ),
    ),
)
