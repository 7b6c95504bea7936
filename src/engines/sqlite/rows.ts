import type { AttemptResult, Grant, Hold, LockState, LockView } from '../../protocol/store.ts'

/** A row as the driver gives it. */
export type Row = Record<string, unknown>

export function byName(rows: readonly Row[]): Map<unknown, Row> {
  return new Map(rows.map((row) => [row.name, row]))
}

export function namesOf(asked: readonly { readonly name: string }[]): string {
  return JSON.stringify(asked.map(({ name }) => name))
}

/** JSON has no bigint. */
export function toJson(holds: readonly Hold[]): string {
  return JSON.stringify(holds.map((hold) => ({ ...hold, token: `${hold.token}` })))
}

export function toGranted(row: Row | undefined): AttemptResult | undefined {
  if (row === undefined) return undefined
  return { granted: true, token: BigInt(row.token as string), takeover: Number(row.takeover) === 1 }
}

/** A row of `standing`, or none if the lock has never been held. */
export function toRefusal(row: Row | undefined): Extract<AttemptResult, { granted: false }> {
  if (row == null || row.owner === null) return { granted: false, holders: [], queued: Number(row?.awaited) === 1 }
  return { granted: false, holders: [row.holder as string], queued: false }
}

/** What was handed over and is not confirmed yet. */
export function toGrants(row: Row | undefined): Grant[] {
  if (row === undefined || row.handed_to === null) return []
  const { remaining, takeover } = row
  const grant = {
    ...toHold(row),
    process: row.handed_to as string,
    remainingMs: Number(remaining),
    takeover: Number(takeover) === 1,
  }
  return [grant]
}

export function toView(row: Row): LockView {
  const { remaining, takeover } = row
  const isFree = Number(row.free) === 1
  const tickets = JSON.parse(row.tickets as string) as string[]
  const holder = () => ({
    ...toHold(row),
    label: row.holder as string,
    remainingMs: Number(remaining),
    takeover: Number(takeover) === 1,
  })
  return {
    name: row.name as string,
    holders: isFree ? [] : [holder()],
    bySession: false,
    promotable: isFree && tickets.length > 0,
    leasesWait: tickets.length > 0,
    tickets,
  }
}

export function toState(row: Row): LockState {
  return {
    ...toHold(row),
    holder: row.holder as string,
    expiresInMs: Math.max(0, Number(row.remaining)),
    waiters: Number(row.waiters),
  }
}

export function toHold(row: Row): Hold {
  return { name: row.name as string, owner: row.owner as string, token: BigInt(row.token as string) }
}
