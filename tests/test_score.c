/* test_score.c - chrF against sacreBLEU's published cases and against a transcription of its formula; exact match. */
#include "test.h"
#include "tune/data.h"

static double chrf_one(const char *hypothesis, const char *reference)
{
    TestPair p = {"", &reference, 1};
    return score_chrf(&hypothesis, &p, 1);
}

TEST(chrf_of_short_texts_is_sacrebleus)        // sacreBLEU's test_chrf_eff_order; these do not depend on beta
{
    CHECK_NEAR(100, chrf_one("a", "a"), 1e-9);
    CHECK_NEAR(0, chrf_one("", "reference"), 1e-9);
    CHECK_NEAR(100, chrf_one("a b c", "a b c"), 1e-9);
    CHECK_NEAR(100, chrf_one("a b c", "abc"), 1e-9);
    CHECK_NEAR(0, chrf_one("", "c"), 1e-9);
    CHECK_NEAR(25, chrf_one("aa", "ab"), 1e-9);
    const char *hypotheses[] = {"a", "b"}, *answers[] = {"a", "c"};
    TestPair pairs[] = {{"", &answers[0], 1}, {"", &answers[1], 1}};
    CHECK_NEAR(50, score_chrf(hypotheses, pairs, 2), 1e-9);
}

/* The wanted values come from a transcription of sacreBLEU's formula into Python; with the smoothing of sacreBLEU's own
 * test it gave the published 39.14078509 for the first sentence. */
TEST(chrf_with_several_references)
{
    static const char *hypotheses[] = {"Co nás nejvíc trápí, protože lékaři si vybírají, kdo bude žít a kdo zemře.", "Hi", "", "Schöne Grüße!",
                                       "I'm coming home now."};
    static const char *answers[][3] = {{"Nejvíce smutní jsme z toho, že musíme rozhodovat o tom, kdo bude žít a kdo zemře."}, {"Hi!", "Hello!"}, {"x"},
                                       {"Schoene Gruesse!", "Schöne Grüsse!"}, {"I am coming home.", "I'm going home now.", "Now I come home."}};
    static const double want[] = {39.14081690316368, 63.63636363636363, 0, 66.0611941001057, 71.93033461785777};
    static const size_t counts[] = {1, 2, 1, 2, 3};
    TestPair pairs[5];
    for (size_t i = 0; i < 5; i++) {
        pairs[i] = (TestPair){"", answers[i], counts[i]};
        CHECK_NEAR(want[i], score_chrf(&hypotheses[i], &pairs[i], 1), 1e-9);
    }
    CHECK_NEAR(46.81759186008889, score_chrf(hypotheses, pairs, 5), 1e-9);
}

TEST(chrf_survives_broken_utf8)
{
    CHECK(chrf_one("ab\xC3", "abc") > 0);
    CHECK(chrf_one("\xF0\x9F", "\xFF") >= 0);
    CHECK_NEAR(100, chrf_one("a\u00A0b", "ab"), 1e-9);       // a no-break space is white space
    CHECK_NEAR(0, score_chrf(NULL, NULL, 0), 0);
}

TEST(exact_match_trims_and_takes_any_answer)
{
    const char *hypotheses[] = {" Hello! ", "Hi", "hello", "Go on."}, *greet[] = {"Hi!", "Hello!"}, *go[] = {"Go on.\n"};
    TestPair pairs[] = {{"", greet, 2}, {"", greet, 2}, {"", greet, 2}, {"", go, 1}};
    CHECK_NEAR(50, score_exact(hypotheses, pairs, 4), 1e-9);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
