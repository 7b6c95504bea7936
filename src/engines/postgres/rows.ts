import { toBoolean, toNumber } from '../../adapters/shape.ts'
import type { Grant, Hold, LockState, LockView } from '../../protocol/store.ts'

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

/** As JSON, each with its ordinal. */
export function numbered(items: readonly object[]): string {
  return JSON.stringify(items.map((item, index) => ({ i: index + 1, ...item })))
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

export function toState(row: Row): LockState {
  return {
    name: row.name as string,
    owner: row.owner as string,
    token: BigInt(row.token as string),
    holder: row.holder as string,
    expiresInMs: Math.max(0, toNumber(row.remaining)),
    waiters: toNumber(row.waiters),
  }
}

export function toView(name: string, row: Row): LockView {
  const { owner, token, label, takeover, remaining } = row
  const tickets = JSON.parse((row.tickets as string | null) ?? '[]') as string[]
  const isFree = toBoolean(row.free)
  const holder = {
    name,
    owner: owner as string,
    token: BigInt(token as string),
    label: label as string,
    takeover: toBoolean(takeover),
    remainingMs: toNumber(remaining),
  }
  return {
    name,
    holders: owner === null || isFree ? [] : [holder],
    bySession: !isFree && toBoolean(row.by_session),
    promotable: isFree && tickets.length > 0,
    leasesWait: toBoolean(row.leases_wait),
    tickets,
  }
}

/** What was handed over, if anything was. */
export function toGrants(name: string, row: Row | undefined): Grant[] {
  if (row?.owner == null) return []
  const grant = {
    name,
    owner: row.owner as string,
    token: BigInt(row.token as string),
    process: row.process as string,
    takeover: toBoolean(row.takeover),
    remainingMs: toNumber(row.remaining),
  }
  return [grant]
}
