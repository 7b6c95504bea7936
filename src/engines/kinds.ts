/** Asks about all of each name together; answers in the order of all. */
export async function ofEachName<Item extends { readonly name: string }, Answer>(
  items: readonly Item[],
  ask: (groups: readonly (readonly [Item, ...Item[]])[]) => Promise<readonly (readonly Answer[])[]>,
): Promise<Answer[]> {
  const groups = [...groupedByName(items).values()]
  const answers = new Map<Item, Answer>()
  for (const [index, some] of (groups.length === 0 ? [] : await ask(groups)).entries()) {
    for (const [at, answer] of some.entries()) answers.set(groups[index]![at]!, answer)
  }
  return items.map((item) => answers.get(item)!)
}

/** Each in its order. */
export function groupedByName<Item extends { readonly name: string }>(
  items: readonly Item[],
): ReadonlyMap<string, readonly [Item, ...Item[]]> {
  const groups = new Map<string, [Item, ...Item[]]>()
  for (const item of items) {
    const group = groups.get(item.name)
    if (group === undefined) groups.set(item.name, [item])
    else group.push(item)
  }
  return groups
}

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
