import { toBoolean, toNumber } from '../../adapters/shape.ts'
import {
  type Grant,
  type Hold,
  type Holder,
  isShared,
  type Kind,
  type LockState,
  type LockView,
  type SharedHold,
} from '../../protocol/store.ts'

/** A row as the driver gives it. */
export type Row = Record<string, unknown>

/** An array in the server's own notation: drivers differ in what they make of arrays, but they all pass on text. */
export function array(values: readonly (string | number | bigint | null)[]): string {
  let text = ''
  for (const value of values) {
    if (text !== '') text += ','
    if (value === null) text += 'null'
    else
      text += typeof value === 'string' ? `"${/["\\]/.test(value) ? value.replace(/["\\]/g, '\\$&') : value}"` : value
  }
  return `{${text}}`
}

/** Holds, or attempts, as arrays of their names and owners. */
export function keysOf(asked: readonly { readonly name: string; readonly owner: string }[]) {
  return { names: array(asked.map(({ name }) => name)), owners: array(asked.map(({ owner }) => owner)) }
}

export function arraysOf(holds: readonly Hold[]) {
  return { ...keysOf(holds), tokens: array(holds.map(({ token }) => token)) }
}

export function areShared(holds: readonly Hold[]): holds is readonly SharedHold[] {
  return holds.every(isShared)
}

export function sharedArraysOf(holds: readonly SharedHold[]) {
  return { ...arraysOf(holds), slots: array(holds.map(({ slot }) => slot)) }
}

/** As JSON, each with its ordinal. */
export function numbered(items: readonly object[]): string {
  return JSON.stringify(withOrdinals(items))
}

export function withOrdinals(items: readonly object[]): readonly object[] {
  return items.map((item, index) => ({ i: index + 1, ...item }))
}

/** Rows come in any order, with the ordinal of what they answer. */
export function inOrder(rows: readonly Row[], count: number): (Row | undefined)[] {
  const ordered = new Array<Row | undefined>(count).fill(undefined)
  for (const row of rows) ordered[toNumber(row.i) - 1] = row
  return ordered
}

/** The indices of those whose names are listed, as JSON; null is all of them. */
export function indicesOf(asked: readonly { readonly name: string }[], names: unknown): number[] {
  const indices = [...asked.keys()]
  if (typeof names !== 'string') return indices
  const listed = new Set(JSON.parse(names) as string[])
  return indices.filter((index) => listed.has(asked[index]!.name))
}

/** The indices of those that have no result yet. */
export function unanswered(results: readonly unknown[]): number[] {
  return [...results.keys()].filter((index) => results[index] === undefined)
}

/** What a name is, by its permits. */
export function toKind(permits: unknown): Kind {
  return permits === null ? 'lock' : { permits: toNumber(permits) }
}

export function toLabels(holders: unknown): string[] {
  return holders === null ? [] : (JSON.parse(holders as string) as string[])
}

/** A hold, as the statements tell it in JSON. */
interface ToldHold {
  readonly owner: string
  readonly token: string
  readonly takeover: boolean
  readonly checkpointed?: boolean
  readonly remaining: number
  readonly weight: number | null
  readonly slot: number | null
  /** Who was handed it, and has not confirmed it; or the transaction that took it. */
  readonly process: string | null
}

interface ToldHolder extends ToldHold {
  readonly label: string
  /** It ends with its holder's session. */
  readonly session: boolean
}

interface ToldTicket {
  readonly n: number
  readonly holder: string
  readonly weight?: number | null
  /** Microseconds since 1970. */
  readonly since: number
}

function listOf<Told>(json: unknown): Told[] {
  return json === null ? [] : (JSON.parse(json as string) as Told[])
}

function toHold(name: string, { owner, token, takeover, checkpointed, remaining, weight, slot }: ToldHold) {
  const told = checkpointed === undefined ? {} : { checkpointed }
  const hold = { name, owner, token: BigInt(token), takeover, ...told, remainingMs: remaining, weight }
  return slot === null ? hold : { ...hold, slot }
}

export function toHolders(name: string, json: unknown): Holder[] {
  return listOf<ToldHolder>(json).map((told) => ({ ...toHold(name, told), label: told.label }))
}

/** What was handed over. */
export function toGrants(name: string, json: unknown): Grant[] {
  return listOf<ToldHold>(json).map((told) => ({ ...toHold(name, told), process: told.process! }))
}

/** Those of the holders that were handed it, and have not confirmed it. */
export function toHandedOver(name: string, json: unknown): Grant[] {
  const isHandOff = ({ process }: ToldHold) => process !== null && !process.startsWith('transaction ')
  return listOf<ToldHolder>(json)
    .filter(isHandOff)
    .map((told) => ({ ...toHold(name, told), process: told.process! }))
}

export function toState(row: Row): LockState {
  const name = row.name as string
  const now = Number(row.now)
  const holders = toHolders(name, row.holders)
  const queue = listOf<ToldTicket>(row.queue)
  const told = holders.map(({ owner, token, label, weight, remainingMs }) => {
    return { owner, token, holder: label, weight: weight ?? 1, expiresInMs: Math.max(0, remainingMs) }
  })
  const { weight: _, ...first } = told[0]!
  return {
    name,
    ...first,
    waiters: queue.reduce((sum, { n }) => sum + n, 0),
    mode: modeOf(holders[0]!),
    holders: told,
    queue: queue.map((ticket) => ({
      holder: ticket.holder,
      mode: modeOf(ticket),
      weight: ticket.weight ?? 1,
      waiters: ticket.n,
      waitingMs: Math.max(0, (now - ticket.since) / 1000),
    })),
    ...(row.permits !== null && { permits: toNumber(row.permits) }),
  }
}

function modeOf({ weight }: { readonly weight?: number | null }): LockState['mode'] {
  return weight == null ? 'exclusive' : 'shared'
}

export function toView(name: string, row: Row): LockView {
  return {
    name,
    token: BigInt(row.row_token as string),
    holders: toHolders(name, row.holders),
    bySession: listOf<ToldHolder>(row.holders).some(({ session }) => session),
    promotable: toBoolean(row.promotable),
    leasesWait: toBoolean(row.leases_wait),
    tickets: listOf<string>(row.tickets),
  }
}
