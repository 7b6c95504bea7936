/** Asks about those of a kind at once, and then about the others; answers in the order of all. */
export function ofEachKind<Item, Kind extends Item, Answer>(
  items: readonly Item[],
  isOfKind: (item: Item) => item is Kind,
  askKind: (some: readonly Kind[]) => Promise<readonly Answer[]>,
  askOthers: (others: readonly Item[]) => Promise<readonly Answer[]>,
): Promise<Answer[]>
export function ofEachKind<Item, Answer>(
  items: readonly Item[],
  isOfKind: (item: Item) => boolean,
  askKind: (some: readonly Item[]) => Promise<readonly Answer[]>,
  askOthers: (others: readonly Item[]) => Promise<readonly Answer[]>,
): Promise<Answer[]>
export async function ofEachKind<Item, Answer>(
  items: readonly Item[],
  isOfKind: (item: Item) => boolean,
  askKind: (some: readonly Item[]) => Promise<readonly Answer[]>,
  askOthers: (others: readonly Item[]) => Promise<readonly Answer[]>,
): Promise<Answer[]> {
  const some = items.filter(isOfKind)
  const others = items.filter((item) => !isOfKind(item))
  const answers = (some.length === 0 ? [] : await askKind(some)).values()
  const otherAnswers = (others.length === 0 ? [] : await askOthers(others)).values()
  return items.map((item) => (isOfKind(item) ? answers : otherAnswers).next().value as Answer)
}
