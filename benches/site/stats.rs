//! Medians, percentiles, and how figures are written.

/// The middle of some figures (the upper one of two). NaN for none.
pub(crate) fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    percentile(figures, 50.0)
}

/// The figure below which `percent` of them lie, by nearest rank. NaN for none.
pub(crate) fn percentile(figures: impl IntoIterator<Item = f64>, percent: f64) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    let place = (figures.len() as f64 * percent / 100.0) as usize;
    figures.get(place.min(figures.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// Transactions a second and other large figures: whole, with thousands separated.
pub(crate) fn whole(figure: f64) -> String {
    if !figure.is_finite() {
        return "–".to_owned();
    }
    if figure.abs() < 100.0 {
        return format!("{figure:.1}");
    }
    let digits = format!("{figure:.0}");
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or_default()).collect();
    groups.join(",")
}

/// Milliseconds, with what precision they deserve.
pub(crate) fn ms(figure: f64) -> String {
    match figure {
        figure if !figure.is_finite() => "–".to_owned(),
        figure if figure < 10.0 => format!("{figure:.2}"),
        figure if figure < 100.0 => format!("{figure:.1}"),
        figure => whole(figure),
    }
}

/// Ours over the yardstick's.
pub(crate) fn ratio(ours: f64, yardstick: f64) -> String {
    let ratio = ours / yardstick;
    match ratio {
        ratio if !ratio.is_finite() => "–".to_owned(),
        ratio if ratio < 10.0 => format!("{ratio:.2}"),
        ratio => whole(ratio),
    }
}
