import { sql } from 'kysely'
import { DatabaseError } from '../../base/errors.ts'
import type * as lockRow from '../../protocol/lock-row.ts'
import type { Grant } from '../../protocol/store.ts'
import { groupedByName } from '../kinds.ts'
import type { Runner } from '../runner.ts'
import { statement } from '../statement.ts'
import type { OpenedFile } from './file.ts'
import { engine, type Fragments, seen, whole } from './fragments.ts'
import { namesOf, type Seen, toSeen, toStored } from './rows.ts'

interface Named {
  readonly name: string
}

/** What is made of the row of a lock, or of there being none. Pure: it is decided again if others were faster. */
export type Decide<Asked, Reply> = (
  row: lockRow.LockRow | undefined,
  asked: Asked,
  world: lockRow.World,
) => Pick<lockRow.Step<Reply>, 'reply' | 'grants'> & { readonly row: lockRow.LockRow | undefined }

interface StepOptions<Asked, Reply> {
  /** The process that asks, which needs no hint of what is handed over to itself. */
  readonly by?: string
  /** See `Statement`. */
  readonly durable?: false
  /**
   * Where a call may not be repeated once it has had an effect: what to answer about the rest if the file is busy then. `begun`:
   * it has had one before this.
   */
  readonly ifBusy?: { reply(asked: Asked): Reply; readonly begun: boolean }
}

export function stepStatements({ locks }: Fragments) {
  return {
    // Reading waits for no writer: that a lock is held can be told while a transaction keeps the file locked.
    read: statement<{ names: string }>(
      engine,
      (p) => sql`
        select asked.value as asked, ${seen}
        from json_each(${p.names}) as asked
        left join ${locks} as l on l.name = asked.value`,
    ),

    write: statement<{ rows: string }>(
      engine,
      (p) => sql`
        insert into ${locks}
               (name, owner, token, expires_at, holder, handed_to, takeover, permits, shares, queue)
        select asked.value ->> 'name', asked.value ->> 'owner', cast(asked.value ->> 'token' as integer),
               asked.value ->> 'expiresAt', asked.value ->> 'holder', asked.value ->> 'handedTo',
               asked.value ->> 'takeover', asked.value ->> 'permits', asked.value ->> 'shares', asked.value ->> 'queue'
        from json_each(${p.rows}) as asked
        left join ${locks} as l on l.name = asked.value ->> 'name'
        where ${whole} is asked.value ->> 'seen'
        on conflict (name) do update
        set owner = excluded.owner,
            token = excluded.token,
            expires_at = excluded.expires_at,
            holder = excluded.holder,
            handed_to = excluded.handed_to,
            takeover = excluded.takeover,
            permits = excluded.permits,
            shares = excluded.shares,
            queue = excluded.queue
        returning name`,
    ),
  }
}

/**
 * The decisions of lock-row.ts about locks that are shared: a row is read, and what they make of it is written if it is still
 * as it was read. Else it is read again; whoever was faster got further, so somebody always does.
 */
export class Steps {
  readonly #runner: Runner<never>
  readonly #file: OpenedFile
  readonly #statements: ReturnType<typeof stepStatements>

  constructor(runner: Runner<never>, file: OpenedFile, fragments: Fragments) {
    this.#runner = runner
    this.#file = file
    this.#statements = stepStatements(fragments)
  }

  async read(asked: readonly Named[]): Promise<ReadonlyMap<string, Seen>> {
    const { rows } = await this.#runner.run(this.#statements.read({ names: namesOf(asked) }))
    return new Map(rows.map((row) => [row.asked as string, toSeen(row)]))
  }

  /** The rows that there are. */
  async found(asked: readonly Named[]): Promise<(Seen & { readonly row: lockRow.LockRow })[]> {
    return [...(await this.read(asked)).values()].filter(isFound)
  }

  /** Several of one name are decided one after the other, and written together. */
  async step<Asked extends Named, Reply>(
    asked: readonly Asked[],
    decide: Decide<Asked, Reply>,
    { by, durable, ifBusy }: StepOptions<Asked, Reply> = {},
  ): Promise<Reply[]> {
    const replies = new Map<Asked, Reply>()
    const handedTo: string[] = []
    let left = asked
    try {
      while (left.length > 0) {
        const steps = decideEach(left, decide, await this.read(left))
        const written = await this.#write(steps.filter(isChange), durable)
        const [done, overtaken] = parted(steps, (step) => !isChange(step) || written.has(step.name))
        for (const { group, replies: answers, grants } of done) {
          for (const [index, each] of group.entries()) replies.set(each, answers[index]!)
          handedTo.push(...grants.map(({ process }) => process))
        }
        left = overtaken.flatMap(({ group }) => group)
      }
    } catch (error) {
      const isBusy = error instanceof DatabaseError && error.failure === 'conflict'
      if (!isBusy || ifBusy === undefined || !(ifBusy.begun || replies.size > 0)) throw error
      for (const each of left) replies.set(each, ifBusy.reply(each))
    }
    void this.#file.hint(handedTo, by)
    return asked.map((each) => replies.get(each)!)
  }

  async #write(changes: readonly Change[], durable: false | undefined): Promise<ReadonlySet<unknown>> {
    if (changes.length === 0) return new Set()
    const rows = changes.map(({ row, before }) => ({ ...toStored(row), seen: before.stored }))
    const query = this.#statements.write({ rows: JSON.stringify(rows) })
    const written = await this.#runner.run(durable === undefined ? query : { ...query, durable })
    return new Set(written.rows.map(({ name }) => name))
  }
}

/** Of a lock that has no row, `missing` is the answer. */
export function ofKnown<Asked, Reply>(
  missing: Reply,
  decide: (row: lockRow.LockRow, asked: Asked, world: lockRow.World) => lockRow.Step<Reply>,
): Decide<Asked, Reply> {
  return (row, asked, world) => (row === undefined ? { row, reply: missing, grants: [] } : decide(row, asked, world))
}

/** What is made of one lock. */
interface Decided<Asked, Reply> {
  readonly name: string
  readonly before: Seen
  readonly row: lockRow.LockRow | undefined
  readonly group: readonly Asked[]
  readonly replies: readonly Reply[]
  readonly grants: readonly Grant[]
}

interface Change {
  readonly before: Seen
  readonly row: lockRow.LockRow
}

function isChange<Step extends Pick<Decided<never, never>, 'before' | 'row'>>(step: Step): step is Step & Change {
  return step.row !== undefined && step.row !== step.before.row
}

function decideEach<Asked extends Named, Reply>(
  asked: readonly Asked[],
  decide: Decide<Asked, Reply>,
  rows: ReadonlyMap<string, Seen>,
): Decided<Asked, Reply>[] {
  return [...groupedByName(asked)].map(([name, group]) => {
    const before = rows.get(name)!
    let { row } = before
    const grants: Grant[] = []
    const replies = group.map((each) => {
      const step = decide(row, each, before.world)
      row = step.row
      grants.push(...step.grants)
      return step.reply
    })
    return { name, before, row, group, replies, grants }
  })
}

function parted<T>(all: readonly T[], isOne: (each: T) => boolean): [T[], T[]] {
  return [all.filter(isOne), all.filter((each) => !isOne(each))]
}

function isFound(seen: Seen): seen is Seen & { readonly row: lockRow.LockRow } {
  return seen.row !== undefined
}
