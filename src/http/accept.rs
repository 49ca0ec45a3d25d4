//! Which of several media types a client wants most (RFC 9110, 12.5.1).

/// A quality in thousandths, as precise as the header can say it.
type Quality = u16;

/// The offer with the highest quality; of equals, the one named first. `None` if the client takes none of them.
pub fn best(accept: &str, offers: &[&'static str]) -> Option<&'static str> {
    let mut best: Option<(&'static str, Quality)> = None;
    for offer in offers {
        let quality = quality(accept, offer);
        if quality > best.map_or(0, |(_, q)| q) {
            best = Some((offer, quality));
        }
    }
    best.map(|(offer, _)| offer)
}

/// How much the client wants this media type, 0 (not at all) to 1000. An empty header takes everything, and of
/// several ranges that match, the most specific one counts.
pub fn quality(accept: &str, media_type: &str) -> u16 {
    if accept.trim().is_empty() {
        return 1000;
    }
    let (wanted, wanted_params) = split_params(media_type);
    let mut found = (0, 0); // (specificity, quality)
    for range in accept.split(',') {
        let (range, params) = split_params(range);
        let (params, quality) = match split_quality(params) {
            Some(split) => split,
            None => continue, // not understood: as if it were not there
        };
        let specificity = match specificity(range, wanted) {
            Some(n) if params.is_empty() => n,
            Some(3) if same_params(&params, wanted_params) => 4,
            _ => continue,
        };
        if specificity > found.0 {
            found = (specificity, quality);
        }
    }
    found.1
}

fn split_params(text: &str) -> (&str, &str) {
    let (value, params) = text.split_once(';').unwrap_or((text, ""));
    (value.trim(), params)
}

/// The parameters before `q`, and the quality; `None` if the quality is no number.
fn split_quality(params: &str) -> Option<(Vec<&str>, Quality)> {
    let mut own = Vec::new();
    for param in params.split(';').map(str::trim).filter(|p| !p.is_empty()) {
        match param.split_once('=') {
            Some((name, value)) if name.trim().eq_ignore_ascii_case("q") => {
                return Some((own, parse_quality(value.trim())?)); // what follows are extensions
            }
            _ => own.push(param),
        }
    }
    Some((own, 1000))
}

fn parse_quality(text: &str) -> Option<Quality> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) || !matches!(whole, "0" | "1") {
        return None;
    }
    let digits = &fraction[..fraction.len().min(3)];
    let thousandths = if digits.is_empty() { 0 } else { digits.parse::<Quality>().ok()? };
    let scale = [1000, 100, 10, 1][digits.len()];
    let value = if whole == "1" { 1000 } else { thousandths * scale };
    Some(value.min(1000))
}

/// 3 for the type itself, 2 for `type/*`, 1 for `*/*`.
fn specificity(range: &str, wanted: &str) -> Option<u8> {
    if range.eq_ignore_ascii_case(wanted) {
        return Some(3);
    }
    if range == "*/*" || range == "*" {
        return Some(1);
    }
    let (major, minor) = range.split_once('/')?;
    let (wanted_major, _) = wanted.split_once('/')?;
    (minor == "*" && major.eq_ignore_ascii_case(wanted_major)).then_some(2)
}

fn same_params(params: &[&str], wanted: &str) -> bool {
    let wanted: Vec<&str> = wanted.split(';').map(str::trim).filter(|p| !p.is_empty()).collect();
    params.len() == wanted.len()
        && params.iter().zip(wanted).all(|(a, b)| a.eq_ignore_ascii_case(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HTML: &str = "text/html";
    const JSON: &str = "application/vnd.pypi.simple.v1+json";

    #[test]
    fn pip_gets_json_and_a_browser_gets_html() {
        let pip = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, \
                   text/html; q=0.01";
        assert_eq!(best(pip, &[HTML, JSON]), Some(JSON));
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        assert_eq!(best(browser, &[HTML, JSON]), Some(HTML));
    }

    #[test]
    fn equals_go_by_the_order_of_offers() {
        assert_eq!(best("*/*", &[HTML, JSON]), Some(HTML));
        assert_eq!(best("*/*", &[JSON, HTML]), Some(JSON));
        assert_eq!(best("", &[JSON, HTML]), Some(JSON));
        assert_eq!(
            best("application/vnd.pypi.simple.v1+json, text/html", &[HTML, JSON]),
            Some(HTML)
        );
    }

    #[test]
    fn the_most_specific_range_counts() {
        assert_eq!(quality("text/*;q=0.3, text/html;q=0.7, */*;q=0.5", "text/html"), 700);
        assert_eq!(quality("text/*;q=0.3, text/html;q=0.7, */*;q=0.5", "text/plain"), 300);
        assert_eq!(quality("text/*;q=0.3, text/html;q=0.7, */*;q=0.5", "image/png"), 500);
        assert_eq!(quality("*/*, text/html;q=0", "text/html"), 0);
        assert_eq!(best("*/*, text/html;q=0", &[HTML, JSON]), Some(JSON));
        assert_eq!(quality("text/html;level=1", "text/html"), 0);
        assert_eq!(quality("text/html;level=1;q=0.4, text/html", "text/html;level=1"), 400);
    }

    #[test]
    fn nothing_acceptable_is_none() {
        assert_eq!(best("image/png", &[HTML, JSON]), None);
        assert_eq!(best("text/html;q=0", &[HTML]), None);
        assert_eq!(best("text/html;q=x", &[HTML]), None);
    }

    #[test]
    fn case_and_blanks_do_not_matter() {
        assert_eq!(quality(" Text/HTML ; Q=0.25 ", "text/html"), 250);
        assert_eq!(quality("text/html;q=1.000", "text/html"), 1000);
        assert_eq!(quality("text/html;q=0.1234", "text/html"), 123);
        assert_eq!(quality("text/html;q=.", "text/html"), 0);
    }
}
