/* test_score.c - chrF and BLEU against the values that sacreBLEU publishes and against a transcription of its formula; exact match;
 * intervals. */
#include "test.h"
#include "tune/score.h"

static double chrf_one(const char *hypothesis, const char *reference)
{
    TestPair p = {"", &reference, 1};
    return score_chrf(&hypothesis, &p, 1).value;
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
    CHECK_NEAR(50, score_chrf(hypotheses, pairs, 2).value, 1e-9);
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
        CHECK_NEAR(want[i], score_chrf(&hypotheses[i], &pairs[i], 1).value, 1e-9);
    }
    CHECK_NEAR(46.81759186008889, score_chrf(hypotheses, pairs, 5).value, 1e-9);
}

// sacreBLEU's README: the example of its object-oriented API, and the same with one reference less
static const char *const readme[] = {"The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."};
static const char *readme_answers[][2] = {{"The dog bit the man.", "The dog had bit the man."}, {"It was not unexpected.", "No one was surprised."},
                                          {"The man bit him first.", "The man had bitten the dog."}};

TEST(bleu_and_chrf_of_sacrebleus_readme)
{
    TestPair pairs[3] = {{"", readme_answers[0], 2}, {"", readme_answers[1], 2}, {"", readme_answers[2], 2}};
    const char *empty[] = {"", "", ""};
    CHECK_NEAR(48.530827, score_bleu(readme, pairs, 3).value, 1e-6);       // test/test_bleu.py has more digits of the README's 48.53
    CHECK_NEAR(59.73, score_chrf(readme, pairs, 3).value, 0.005);
    CHECK_NEAR(0, score_bleu(empty, pairs, 3).value, 0);
    pairs[0] = (TestPair){"", &readme_answers[0][1], 1};
    CHECK_NEAR(29.44, score_bleu(readme, pairs, 3).value, 0.005);
    CHECK_NEAR(0, score_bleu(NULL, NULL, 0).value, 0);
}

TEST(bleu_of_sentences_is_sacrebleus)          // test/test_sentence_bleu.py: exp smoothing, 13a; all orders are there
{
    const char *hypotheses[] = {"Producția de zahăr primă va fi exprimată în ceea ce privește zahărul alb;", "this is a cat"};
    const char *answers[] = {"producţia de zahăr brut se exprimă în zahăr alb;", "okay thanks"};
    TestPair pairs[2] = {{"", &answers[0], 1}, {"", &answers[1], 1}};
    CHECK_NEAR(8.493, score_bleu(&hypotheses[0], &pairs[0], 1).value, 1e-3);
    CHECK_NEAR(0, score_bleu(&hypotheses[1], &pairs[1], 1).value, 0);
}

/* 13a by its rules: marks come off words, stops stay inside numbers, a dash comes off a digit, entities are what they stand for. */
TEST(bleu_cuts_tokens_as_13a)
{
    static const char *const equal[][2] = {{"Costs 1,000.50 (or so), he said: \"yes\"!", "Costs 1,000.50 ( or so ) , he said : \" yes \" !"},
                                           {"a 5-year plan, well-known", "a 5 - year plan , well-known"},
                                           {"&quot;Tom &amp; Ann&quot; x&lt;y", "\" Tom & Ann \" x < y"}, {"it ends here.  \n", "it ends\there ."},
                                           {"été.été zoë, b\u00A0c", "été . été zoë , b c"}};
    static const char *const unequal[][2] = {{"1,000 is it now", "1 , 000 is it now"}, {"it's a good day", "it ' s a good day"}};
    for (size_t i = 0; i < sizeof equal / sizeof *equal; i++) {
        const char *answer = equal[i][1];
        TestPair p = {"", &answer, 1};
        CHECK_NEAR(100, score_bleu(&equal[i][0], &p, 1).value, 1e-9);
    }
    for (size_t i = 0; i < sizeof unequal / sizeof *unequal; i++) {
        const char *answer = unequal[i][1];
        TestPair p = {"", &answer, 1};
        CHECK(score_bleu(&unequal[i][0], &p, 1).value < 99);
    }
}

TEST(chrf_of_sentences_is_sacrebleus)          // test/test_chrf.py, which averages F over the orders (eps_smoothing): 4e-4 apart at most
{
    static const char *const hypotheses[] = {"Co nás nejvíc trápí, protože lékaři si vybírají, kdo bude žít a kdo zemře.",
                                             "Nebo prostě nemají vybavení, které by jim pomohlo, uvedli lékaři.",
                                             "Lapali po dechu, jejich životy skončily dřív, než skutečně začaly."};
    static const char *const answers[] = {"Nejvíce smutní jsme z toho, že musíme rozhodovat o tom, kdo bude žít a kdo zemře.",
                                          "A někdy nemáme ani potřebný materiál, abychom jim pomohli, popsali lékaři.",
                                          "Lapali po dechu a pak jejich život skončil - dřív, než skutečně mohl začít, připomněli."};
    static const double want[] = {39.14078509, 31.22557079, 57.15704367};
    for (size_t i = 0; i < 3; i++) CHECK_NEAR(want[i], chrf_one(hypotheses[i], answers[i]), 1e-3);
}

TEST(shares_have_wilsons_interval)
{
    Score half = score_share(5, 10), none = score_share(0, 10), all = score_share(10, 10);
    CHECK_NEAR(50, half.value, 1e-12);
    CHECK_NEAR(23.66, half.low, 0.005);        // Wilson's for 5 of 10
    CHECK_NEAR(76.34, half.high, 0.005);
    CHECK(none.low == 0 && all.high == 100);
    CHECK_NEAR(27.75, none.high, 0.005);       // z^2 / (n + z^2)
    CHECK_NEAR(72.25, all.low, 0.005);
    CHECK(score_share(0, 0).high == 100);
}

/* Exact match of n samples is a mean, whose bootstrap has the binomial's spread: 95 % lie within 1.96 standard deviations. */
static double mean(const double *sum) { return sum[0] / sum[1]; }
TEST(bootstrap_has_the_spread_of_a_mean)
{
    double stat[400][2], even[50][2];
    for (size_t i = 0; i < 400; i++) stat[i][0] = i % 4 == 0, stat[i][1] = 1;
    for (size_t i = 0; i < 50; i++) even[i][0] = 3, even[i][1] = 2;
    Score s = score_bootstrap(mean, stat[0], 400, 2), again = score_bootstrap(mean, stat[0], 400, 2), sure = score_bootstrap(mean, even[0], 50, 2);
    double half = 1.96 * sqrt(0.25 * 0.75 / 400);
    CHECK_NEAR(0.25, s.value, 1e-12);
    CHECK_NEAR(0.25 - half, s.low, 0.1 * half);
    CHECK_NEAR(0.25 + half, s.high, 0.1 * half);
    CHECK(s.low == again.low && s.high == again.high);
    CHECK(sure.low == 1.5 && sure.value == 1.5 && sure.high == 1.5);
}

TEST(chrf_survives_broken_utf8)
{
    CHECK(chrf_one("ab\xC3", "abc") > 0);
    CHECK(chrf_one("\xF0\x9F", "\xFF") >= 0);
    CHECK_NEAR(100, chrf_one("a\u00A0b", "ab"), 1e-9);       // a no-break space is white space
    CHECK_NEAR(0, score_chrf(NULL, NULL, 0).value, 0);
}

TEST(exact_match_trims_and_takes_any_answer)
{
    const char *hypotheses[] = {" Hello! ", "Hi", "hello", "Go on."}, *greet[] = {"Hi!", "Hello!"}, *go[] = {"Go on.\n"};
    TestPair pairs[] = {{"", greet, 2}, {"", greet, 2}, {"", greet, 2}, {"", go, 1}};
    CHECK_NEAR(50, score_exact(hypotheses, pairs, 4).value, 1e-9);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
