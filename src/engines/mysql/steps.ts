import { setTimeout as pause } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { type RawBuilder, sql } from 'kysely'
import type { Result, Statement } from '../../adapters/adapter.ts'
import { toNumber } from '../../adapters/shape.ts'
import { DatabaseError } from '../../base/errors.ts'
import type { LockRow, RowHolder, Step, World } from '../../protocol/lock-row.ts'
import { databaseError } from '../failures.ts'
import type { Runner } from '../runner.ts'
import { statement } from '../statement.ts'
import { afterAllCommits, type Topology } from '../topology.ts'
import { ALL, ASKED, batched, engine, type Fragments, now, UNGUARDED } from './fragments.ts'
import { type AskedSlot, bytes, bytesOrNull, textOrNull } from './values.ts'
import { toMicroseconds, toStoredHolder, toStoredQueue, toWholes, type Whole, wholeStatements } from './whole.ts'

/** How often a step is decided anew, when another one of the same lock was faster or has its row locked at that moment. */
const TRIES = 20
/** A row that is found locked so often is taken to be locked by a transaction; a step has it for a moment only. */
const LOCKED_TRIES = 8
/** Slots that are made at once, or as many as there are: those who come next find some that are free. */
const NEW_SLOTS = 4
/** Between tries, at most, times their number. So many steps of one lock would else be in each other's way again and again. */
const PAUSE_MS = 1

/** What a step found in the lock's row, and what it makes of it. */
export interface Change {
  readonly name: Buffer
  readonly wasToken: bigint
  readonly wasUsed: number
  readonly wasOwner: Buffer | null
  readonly wasExpiry: bigint
  readonly wasPermits: number | null
  readonly wasQueue: Buffer | null
  readonly owner: Buffer | null
  readonly token: bigint
  readonly expiry: bigint
  readonly holder: Buffer | null
  readonly session: Buffer | null
  readonly handedTo: Buffer | null
  readonly takeover: 0 | 1
  readonly queue: Buffer | null
  readonly permits: number | null
  readonly used: number
  /** How many holds are new, and by how much the sum of weights changes. */
  readonly grants: number
  readonly added: number
}

/** The same of a slot. */
export interface SlotChange {
  readonly slot: number
  readonly wasOwner: Buffer | null
  readonly wasToken: bigint
  readonly wasWeight: number
  readonly wasExpiry: bigint
  readonly owner: Buffer | null
  readonly token: bigint
  readonly weight: number
  readonly expiry: bigint
  readonly holder: Buffer | null
  readonly session: Buffer | null
  readonly handedTo: Buffer | null
  readonly takeover: 0 | 1
  /** Of the new holds, by which their tokens follow each other; null if it is none. */
  readonly nth: number | null
}

type Parameters<Values extends object> = { [Name in keyof Values]-?: RawBuilder<Values[Name]> }

export function stepStatements(fragments: Fragments) {
  const { locks, slots, askedSlots } = fragments
  const same = (p: Parameters<Change>) => sql`
          select l.name from ${locks} as l force index (primary)
          where l.name = ${p.name} and l.token = ${p.wasToken} and l.used = ${p.wasUsed} and l.owner <=> ${p.wasOwner}
            and l.expires_at = ${p.wasExpiry} and l.permits <=> ${p.wasPermits}
            and cast(l.queue as binary) <=> ${p.wasQueue}
          limit 1
          for update skip locked`
  const changingSlots = (p: Parameters<Change>) => sql`
        straight_join (
          select each_slot.*, count(*) over () as found
          from (
            select asked.*
            from ${ASKED} as asked
            straight_join ${slots} as s force index (primary) on s.name = ${p.name} and s.slot = asked.slot
            where s.owner <=> asked.wasOwner and s.token = asked.wasToken and s.weight = asked.wasWeight
              and s.expires_at = asked.wasExpiry
            limit ${sql.lit(ALL)}
            for update skip locked
          ) as each_slot
        ) as changing
        straight_join ${locks} as l force index (primary) on l.name = same.name
        straight_join ${slots} as s force index (primary) on s.name = same.name and s.slot = changing.slot`
  const changedSlots = sql`
            s.owner = changing.owner, s.weight = changing.weight, s.holder = changing.holder,
            s.session = changing.session, s.handed_to = changing.handedTo, s.takeover = changing.takeover`
  const changed = (p: Parameters<Change>) => sql`
            l.owner = ${p.owner}, l.token = ${p.token}, l.expires_at = ${p.expiry}, l.holder = ${p.holder},
            l.session = ${p.session}, l.handed_to = ${p.handedTo}, l.takeover = ${p.takeover},
            l.queue = convert(${p.queue} using utf8mb4), l.permits = ${p.permits}, l.used = ${p.used}`
  const changeWithSlots = statement<Change>(
    engine,
    (p) => sql`
        update (${same(p)}
        ) as same
        ${changingSlots(p)}
        set ${changed(p)}, ${changedSlots}, s.token = changing.token, s.expires_at = changing.expiry
        where changing.found = changing.most`,
  )
  const share = statement<Change>(
    engine,
    (p) => sql`
        update (
          select l.name, l.used + ${p.added} as used, greatest(l.token + 1, ${now}) as first_token,
                 case when ${p.grants} > 0 then greatest(l.token + 1, ${now}) + ${p.grants} - 1 else l.token end as token,
                 greatest(case when l.owner is null then l.expires_at else 0 end, ${p.expiry}) as expiry
          from ${locks} as l force index (primary)
          where l.name = ${p.name} and l.owner <=> ${p.wasOwner} and (l.owner is null or l.expires_at = ${p.wasExpiry})
            and l.permits <=> ${p.wasPermits} and cast(l.queue as binary) <=> ${p.wasQueue}
            and (${p.added} <= 0 or l.permits is null or l.used + ${p.added} <= l.permits)
          limit 1
          for update skip locked
        ) as same
        ${changingSlots(p)}
        set l.owner = null, l.holder = null, l.session = null, l.handed_to = ${p.handedTo}, l.takeover = ${p.takeover},
            l.token = same.token, l.expires_at = same.expiry, l.used = same.used, ${changedSlots},
            s.token = case when changing.nth is null then changing.token else same.first_token + changing.nth end,
            s.expires_at = changing.expiry + 0 * last_insert_id(same.first_token)
        where changing.found = changing.most`,
  )

  return {
    ...wholeStatements(fragments),

    // WHO GETS THE LOCK, or a part of it, where it is shared: lock-row.ts has decided, by what was read before. This writes it
    // if the lock's row is still what was read, and each slot that changes, too, and if nobody has one of them locked.
    change: statement<Change>(
      engine,
      (p) => sql`
        update (${same(p)}
        ) as same
        straight_join ${locks} as l force index (primary) on l.name = same.name
        set ${changed(p)}`,
    ),

    changeWithSlots: withSlots(changeWithSlots),

    // Those who come and go while others share have no need that nothing has changed: only that nobody has it exclusively, that
    // nobody waits who did not, and that there is room. Of an attempt that was sent twice at once, one finds in the second slot
    // that its owner has the first (a unique key), and looks again. Tokens are made here, insertId is the first.
    share: withSlots(share),

    // Whoever else makes the same one is done at once.
    makeSlots: batched<{ name: Buffer; slot: number }>(sql`
        insert into ${slots} (name, slot)
        select asked.name, asked.slot from ${ASKED} as asked
        on duplicate key update slot = asked.slot`),

    // Those that nobody has locked.
    unlocked: batched<{ name: Buffer; slot: number }>(sql`
        select s.slot
        from ${askedSlots}
        limit ${sql.lit(ALL)}
        for update skip locked`),

    // Where the lock's row is locked: what the hold takes is taken off by whoever changes the lock next.
    endInSlot: statement<AskedSlot>(
      engine,
      (p) => sql`
        update (
          select s.name, s.slot
          from ${slots} as s force index (primary)
          where s.name = ${p.name} and s.slot = ${p.slot} and s.owner = ${p.owner} and s.token = ${p.token}
          limit 1
          for update skip locked
        ) as mine
        straight_join ${slots} as s force index (primary) on s.name = mine.name and s.slot = mine.slot
        set s.owner = null, s.session = null, s.handed_to = null, s.expires_at = least(s.expires_at, ${now})`,
    ),
  }
}

/** Puts in the slots that change. */
function withSlots(compiled: (change: Change) => Statement) {
  return (change: Change, slotChanges: readonly SlotChange[]): Statement => {
    const { text, values } = compiled(change)
    const [before, after] = text.split('/* asked */')
    const asked = slotChanges.map((each) => ({ ...each, most: slotChanges.length }))
    const columns = Object.keys(asked[0]!) as (keyof (typeof asked)[0])[]
    const first = columns.map((column) => `? as ${column}`).join(', ')
    const other = ` union all select ${columns.map(() => '?').join(', ')}`
    const count = before!.split('?').length - 1
    return {
      text: `${before!.replace(/^\s*(update)\b/, UNGUARDED)}(select ${first}${other.repeat(asked.length - 1)} limit ${asked.length})${after}`,
      values: [
        ...values.slice(0, count),
        ...asked.flatMap((each) => columns.map((column) => each[column])),
        ...values.slice(count),
      ],
    }
  }
}

interface Manner<Reply> {
  /** Where the statement that changes something goes; by default on rowlock's own connection. */
  readonly send?: (query: Statement) => Promise<Result>
  /** If others are faster again and again, the call is to fail and be repeated, rather than to say that it is locked. */
  readonly failsIfOvertaken?: boolean
  /**
   * Of a step that takes or gives back shared holds, and so can be made while others do: the answer, if the first of `tokens`
   * turned out to be `first`.
   */
  readonly renumbered?: (reply: Reply, tokens: { readonly planned: bigint; readonly first: bigint }) => Reply
  /** Slots that it needs at most; others that are free are left to others. */
  readonly slots?: number
}

/** Steps of locks that are shared. */
export interface Steps {
  /** By name, in the order of names. Asked by `send`, by default on rowlock's own connection. */
  read(
    items: readonly { readonly name: string }[],
    send?: (query: Statement) => Promise<Result>,
  ): Promise<Map<string, Whole>>
  /**
   * Reads the lock, decides by lock-row.ts, and writes what that says if nothing has changed since; else once again. Answers
   * `missing` if there is no row. A world in which the row is locked gets no more than an answer: nothing is written then.
   */
  step<Reply>(
    name: string,
    missing: Reply,
    decide: (row: LockRow, world: World) => Step<Reply>,
    manner?: Manner<Reply>,
  ): Promise<Reply>
}

export function stepper({
  runner,
  server,
  fragments,
}: {
  readonly runner: Runner<never>
  readonly server: { topology(send?: (query: Statement) => Promise<Result>): Promise<Topology> }
  readonly fragments: Fragments
}): Steps {
  const statements = stepStatements(fragments)
  const keep = (query: Statement) => runner.keep(query)

  async function read(items: readonly { readonly name: string }[], send = keep): Promise<Map<string, Whole>> {
    if (items.length === 0) return new Map()
    const query = statements.whole(items.map(({ name }) => bytes(name)))
    return toWholes((await send(afterAllCommits(await server.topology(send), query))).rows)
  }

  /** The answer; not if somebody else was faster, or has a row of it locked. */
  async function write(query: Statement, send: NonNullable<Manner<never>['send']>): Promise<Result | undefined> {
    try {
      const result = await send(query)
      return Number(result.affectedRows ?? 0) > 0 ? result : undefined
    } catch (error) {
      if (error instanceof DatabaseError && error.failure === 'conflict') return undefined
      throw error
    }
  }

  /** Others that come next will need some, too. */
  async function makeSlots({ row, slots }: Whole, changes: readonly SlotChange[]): Promise<void> {
    const absent = changes.map(({ slot }) => slot).filter((slot) => !slots.has(slot))
    if (absent.length === 0) return
    const last = Math.max(...absent, ...slots.keys())
    const more = Array.from({ length: Math.max(NEW_SLOTS, slots.size) - absent.length }, (_, index) => last + 1 + index)
    const name = bytes(row.name)
    await write(statements.makeSlots([...absent, ...more].map((slot) => ({ name, slot }))), keep)
  }

  async function lockedOf(name: string, slots: readonly SlotChange[]): Promise<number[]> {
    if (slots.length === 0) return []
    const { rows } = await runner.keep(statements.unlocked(slots.map(({ slot }) => ({ name: bytes(name), slot }))))
    const unlocked = new Set(rows.map(({ slot }) => toNumber(slot)))
    return slots.map(({ slot }) => slot).filter((slot) => !unlocked.has(slot))
  }

  return {
    read,

    async step(name, missing, decide, { send = keep, failsIfOvertaken = false, renumbered, slots: most } = {}) {
      const locked = new Set<number>()
      let before: { readonly whole: Whole; readonly slots: readonly SlotChange[] } | undefined
      let foundLocked = 0
      for (let tries = 1; ; tries++) {
        const whole = (await read([{ name }])).get(name)
        if (whole === undefined) return missing
        if (before !== undefined && isSame(before.whole, whole)) {
          const found = await lockedOf(name, before.slots)
          for (const slot of found) locked.add(slot)
          if (found.length === 0) foundLocked++
        }
        const world = { ...whole.world, locked: false, protects: (slot: number) => locked.has(slot) }
        if (foundLocked >= LOCKED_TRIES || tries > TRIES) {
          if (failsIfOvertaken && foundLocked < LOCKED_TRIES) {
            throw databaseError('conflict', new Error(`${name} was changed by others again and again`))
          }
          return decide(whole.row, { ...world, locked: true }).reply
        }
        const { reply, after } = decided(whole, decide, world, occupiedOf(whole, locked, most))
        const { change, slots } = changesOf(whole, after)
        if (change === null) return reply
        await makeSlots(whole, slots)
        if (renumbered !== undefined && isSharing(whole, after)) {
          const some = tries === 1 ? slots : withoutTakingOff(whole, after, slots)
          const added = some.reduce((sum, { weight, wasWeight }) => sum + weight - wasWeight, 0)
          const result = await write(statements.share({ ...change, added }, some), send)
          if (result !== undefined) {
            return renumbered(reply, { planned: firstTokenOf(whole, after), first: BigInt(result.insertId ?? 0) })
          }
        } else {
          const query = slots.length === 0 ? statements.change(change) : statements.changeWithSlots(change, slots)
          if ((await write(query, send)) !== undefined) return reply
        }
        before = { whole, slots }
        await pause(Math.random() * PAUSE_MS * tries)
      }
    },
  }
}

/** Whether it takes or gives back shared holds, and does nothing else. */
function isSharing({ row }: Whole, after: LockRow): boolean {
  const granted = after.holders.filter(({ token }) => token > row.token)
  const isShared = after.holders.every(({ slot }) => slot !== undefined)
  const isTokenOfGrant = after.token === row.token || granted.some(({ token }) => token === after.token)
  const isHandOff = granted.some(({ handedTo }) => handedTo !== null)
  return isShared && isTokenOfGrant && !isHandOff && isDeepStrictEqual(row.queue, after.queue)
}

/** What has ended is in everybody's way who takes it off, so where others come and go it is left, if there is room. */
function withoutTakingOff(
  { row, stored, world }: Whole,
  after: LockRow,
  slots: readonly SlotChange[],
): readonly SlotChange[] {
  const before = bySlot(row)
  const some = slots.filter(({ slot, weight }) => weight > 0 || (before.get(slot)?.expiresAt ?? 0) > world.now)
  const added = some.reduce((sum, { weight, wasWeight }) => sum + weight - wasWeight, 0)
  const isRoom = after.permits === null || added <= 0 || toNumber(stored.used) + added <= after.permits
  return isRoom && some.length > 0 ? some : slots
}

/** Of the holds that are new; if there are none, what one would have. */
function firstTokenOf({ row }: Whole, after: LockRow): bigint {
  const granted = after.holders.map(({ token }) => token).filter((token) => token > row.token)
  return granted.reduce((first, token) => (token < first ? token : first), granted[0] ?? row.token + 1n)
}

/** Slots in which nothing is to be put: those that are locked, and, if few are needed, most of those that are free. */
function occupiedOf({ row, slots }: Whole, locked: ReadonlySet<number>, most: number | undefined): number[] {
  const kept = new Set(row.holders.map(({ slot }) => slot))
  const free = [...slots.keys()].filter((slot) => !kept.has(slot) && !locked.has(slot))
  const lockedFree = [...locked].filter((slot) => !kept.has(slot))
  if (most === undefined) return lockedFree
  // Whoever else comes at this moment takes another one, probably.
  const from = Math.floor(Math.random() * free.length)
  const ours = new Set(Array.from({ length: most }, (_, index) => free[(from + index) % free.length]))
  return [...lockedFree, ...free.filter((slot) => !ours.has(slot))]
}

/** Of what is to be put into a free slot there is none that is `occupied`. */
function decided<Reply>(
  whole: Whole,
  decide: (row: LockRow, world: World) => Step<Reply>,
  world: World,
  occupied: readonly number[],
): { readonly reply: Reply; readonly after: LockRow } {
  const { row: after, reply } = decide(whole.row, world)
  if (occupied.length === 0 || changesOf(whole, after).change === null) return { reply, after }
  const other = decide(
    { ...whole.row, holders: [...whole.row.holders, ...occupied.map(toOccupied)] },
    {
      ...world,
      protects: (slot) => occupied.includes(slot) || world.protects(slot),
    },
  )
  return {
    reply: other.reply,
    after: { ...other.row, holders: other.row.holders.filter(({ weight }) => weight !== 0) },
  }
}

function toOccupied(slot: number): RowHolder {
  const nobody = { owner: '', token: 0n, label: '', session: null, expiresAt: 0, handedTo: null, takeover: false }
  return { ...nobody, slot, weight: 0, released: true }
}

/** What a step makes of the lock's row and of its slots; null if that is nothing. */
function changesOf(whole: Whole, after: LockRow): { change: Change | null; slots: SlotChange[] } {
  const before = whole.row
  const slots = slotChangesOf(whole, after)
  const exclusive = after.holders.find(({ slot }) => slot === undefined)
  const isSameHolder = isDeepStrictEqual(
    before.holders.find(({ slot }) => slot === undefined),
    exclusive,
  )
  const rest = ({ holders: _, ...others }: LockRow) => others
  if (slots.length === 0 && isSameHolder && isDeepStrictEqual(rest(before), rest(after))) {
    return { change: null, slots }
  }
  const { stored } = whole
  const was = storedHolderOf(stored)
  const change = {
    name: bytes(before.name),
    wasToken: before.token,
    wasUsed: toNumber(stored.used),
    wasOwner: was.owner,
    wasExpiry: BigInt(toNumber(stored.expires_at)),
    wasPermits: before.permits,
    wasQueue: bytesOrNull(textOrNull(stored.queue)),
    // With what a transaction has left there, which lock-row.ts does not know.
    ...(isSameHolder ? was : toStoredHolder(exclusive)),
    token: after.token,
    expiry: toMicroseconds(exclusive?.expiresAt ?? after.idleSince),
    queue: toStoredQueue(after.queue, whole),
    permits: after.permits,
    used: after.holders.reduce((sum, { weight }) => sum + (weight ?? 0), 0),
    grants: slots.filter(({ nth }) => nth !== null).length,
    added: 0,
  } as const
  return { change, slots }
}

function slotChangesOf(whole: Whole, after: LockRow): SlotChange[] {
  const { row, slots } = whole
  const first = firstTokenOf(whole, after)
  const before = bySlot(row)
  const next = bySlot(after)
  const touched = [...new Set([...before.keys(), ...next.keys()])].filter(
    (slot) => !isDeepStrictEqual(before.get(slot), next.get(slot)),
  )
  return touched
    .sort((one, other) => one - other)
    .map((slot) => {
      const stored = slots.get(slot)
      const holder = next.get(slot)
      const token = stored === undefined ? 0n : BigInt(stored.token as string | number)
      const expiry = stored === undefined ? 0n : BigInt(toNumber(stored.expires_at))
      return {
        slot,
        wasOwner: bytesOrNull(textOrNull(stored?.owner ?? null)),
        wasToken: token,
        wasWeight: toNumber(stored?.weight ?? 0),
        wasExpiry: expiry,
        ...toStoredHolder(holder),
        token: holder?.token ?? token,
        weight: holder?.weight ?? 0,
        expiry: holder === undefined ? 0n : toMicroseconds(holder.expiresAt),
        nth: holder !== undefined && holder.token > row.token ? Number(holder.token - first) : null,
      } as const
    })
}

function bySlot({ holders }: LockRow): Map<number, RowHolder> {
  return new Map(holders.flatMap((holder) => (holder.slot === undefined ? [] : [[holder.slot, holder]])))
}

function storedHolderOf(stored: Record<string, unknown>) {
  const column = (name: string) => bytesOrNull(textOrNull(stored[name]))
  return {
    owner: column('owner'),
    holder: column('holder'),
    session: column('session'),
    handedTo: column('handed_to'),
    takeover: toNumber(stored.takeover) === 1 ? 1 : 0,
  } as const
}

/** Whether nothing has changed in between. */
function isSame(one: Whole, other: Whole): boolean {
  const { expires_at, queue } = one.stored
  return (
    isDeepStrictEqual(one.row, other.row) &&
    isDeepStrictEqual([expires_at, queue], [other.stored.expires_at, other.stored.queue])
  )
}
