import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { brief } from './chart.ts'
import type { ContenderName } from './contenders.ts'
import { type Figure, median, ratio } from './harness.ts'
import { cyclesSetting } from './questions/cycles.ts'
import { ROUND_TRIP, UNGUARDED } from './questions/guard.ts'
import { handOffSetting, WAITERS } from './questions/hand-off.ts'
import { IDLE_SETTINGS } from './questions/idle-waiters.ts'
import { BY_HAND, BY_KEY, ONCE_SETTINGS, PAIR } from './questions/once.ts'
import {
  ADVISORY,
  ADVISORY_COMMITTED,
  FOR_UPDATE,
  freeSetting,
  ISOLATION_KNOWN,
  manySetting,
  ROW_WRITTEN,
  throughOf,
  waitingSetting,
} from './questions/transactions.ts'
import type { Engine } from './servers.ts'

/** What rowlock sets out to reach, and whether it did. */
export interface Verdict {
  readonly figure: string
  readonly target: string
  readonly measured: string
  /** What was reached divided by what was asked for. */
  readonly ratio: number
  readonly met: boolean
  /** What takes part of the same, and could not be done without. */
  readonly floor: string
}

interface Target {
  readonly figure: string
  readonly target: string
  readonly limit: number
  readonly isAtLeast?: boolean
  readonly unit: string
  /** All of these have to keep to the limit; those that were not measured are left out. */
  measured(figures: Figures): number[]
  /** The same figures of what does less. */
  readonly floors?: readonly { readonly of: string; measured(figures: Figures): number[] }[]
}

/** Finds figures of rowlock and of others. */
class Figures {
  readonly #all: readonly Figure[]

  constructor(all: readonly Figure[]) {
    this.#all = all
  }

  values(
    question: string,
    engine: Engine,
    contender: string,
    metric: string,
    isWanted = (_: string) => true,
  ): number[] {
    return this.#find(question, engine, contender, metric)
      .filter(({ setting }) => isWanted(setting))
      .map(({ rounds }) => median(rounds))
  }

  /** By how much a contender's figure exceeds that of another, at the same setting. */
  ratios(
    question: string,
    engine: Engine,
    [contender, base]: readonly [string, string],
    metric: string,
    isWanted = (_: string) => true,
  ): number[] {
    return this.#find(question, engine, contender, metric).flatMap((figure) => {
      if (!isWanted(figure.setting)) return []
      const other = this.#find(question, engine, base, metric).find(({ setting }) => setting === figure.setting)
      return other === undefined ? [] : [ratio(figure, other)]
    })
  }

  /** By how much the last setting exceeds the first. */
  growth(question: string, engine: Engine, contender: string, metric: string): number[] {
    const found = this.#find(question, engine, contender, metric)
    const [first, last] = [found[0], found.at(-1)]
    return first === undefined || last === undefined || first === last ? [] : [ratio(last, first)]
  }

  #find(question: string, engine: Engine, contender: string, metric: string): Figure[] {
    return this.#all.filter(
      (figure) =>
        figure.question === question &&
        figure.engine === engine &&
        figure.contender === contender &&
        figure.metric === metric,
    )
  }
}

const POSTGRES = ['postgres18', 'postgres15'] as const
const MYSQL = ['mysql', 'mariadb'] as const
const ORMS = ['Kysely', 'Knex', 'Drizzle', 'TypeORM', 'Sequelize', 'Prisma'] as const
const inFourProcesses = WAITERS.map((waiters) => handOffSetting({ waiters, processes: 4 }))
const idleSettings = Object.keys(IDLE_SETTINGS)
const isFourProcesses = (setting: string) => inFourProcesses.includes(setting)
const is256Callers = (setting: string) => setting === cyclesSetting(256, 10)
const last = <T>(values: readonly T[]) => values.slice(-1)

const againstVerrou = (engine: Engine, contender: string) => (figures: Figures) =>
  (['verrou (Kysely)', 'verrou (Knex)'] as const).flatMap((store) =>
    figures.ratios('pair', engine, [contender, store], 'p50 ms'),
  )

/** What one caller's pair takes, against that of another contender. */
const pairAgainst =
  (engine: Engine, base: ContenderName, ...contenders: ContenderName[]) =>
  (figures: Figures) =>
    contenders.flatMap((contender) => figures.ratios('pair', engine, [contender, base], 'p50 ms'))

/** Of hand-offs on PostgreSQL, in one process and across processes. */
const oneWaiter = [1, 4].map((processes) => handOffSetting({ waiters: 1, processes }))
const manyWaiters = inFourProcesses.slice(1)

const isOneOf =
  (...settings: string[]) =>
  (setting: string) =>
    settings.includes(setting)

/** Of locks in the caller's transaction: by how much rowlock's exceed a native one. */
const asLongAs =
  (engine: Engine, native: string, metric: string, ...settings: string[]) =>
  (figures: Figures) =>
    figures.ratios('transactions', engine, ['rowlock', native], metric, isOneOf(...settings))

const ENGINES_OF_ONCE: readonly Engine[] = ['postgres18', 'mysql', 'mariadb', 'sqlite']

const statementsOfWaiting = (engine: Engine, limit: number, ...settings: string[]): Target => ({
  figure: `statements per s from ${settings.join('; ')}, ${engine}`,
  target: `<= ${limit}`,
  limit,
  unit: 'per s',
  measured: (figures) => figures.values('transactions', engine, 'rowlock', 'statements per s', isOneOf(...settings)),
})

const TARGETS: readonly Target[] = [
  ...POSTGRES.flatMap((engine): Target[] => [
    {
      figure: `pair, one caller, ${engine}`,
      target: '<= 1.0 x two raw prepared UPDATEs',
      limit: 1,
      unit: 'x',
      measured: pairAgainst(engine, 'raw UPDATEs', 'rowlock'),
      floors: [
        {
          of: 'the raw UPDATEs, with the asynchronous release',
          measured: pairAgainst(engine, 'raw UPDATEs', 'raw UPDATEs, asynchronous release'),
        },
        {
          of: "rowlock's statements alone",
          measured: pairAgainst(engine, 'raw UPDATEs', "rowlock's statements alone"),
        },
      ],
    },
    ...ORMS.map(
      (orm): Target => ({
        figure: `pair through ${orm}, one caller, ${engine}`,
        target: '<= 1.15 x two raw UPDATEs through the same',
        limit: 1.15,
        unit: 'x',
        measured: pairAgainst(engine, `raw UPDATEs (${orm})`, `rowlock (${orm})`),
      }),
    ),
    {
      figure: `pair through Kysely, one caller, ${engine}`,
      target: '<= 0.75 x verrou through the same',
      limit: 0.75,
      unit: 'x',
      measured: pairAgainst(engine, 'verrou (Kysely)', 'rowlock (Kysely)'),
      floors: [
        {
          of: 'the raw UPDATEs through the same',
          measured: pairAgainst(engine, 'verrou (Kysely)', 'raw UPDATEs (Kysely)'),
        },
      ],
    },
    {
      figure: `pair, one caller, ${engine}`,
      target: '<= 0.5 x verrou (the faster store)',
      limit: 0.5,
      unit: 'x',
      measured: againstVerrou(engine, 'rowlock'),
      floors: [
        {
          of: 'the raw statements, with the asynchronous release',
          measured: againstVerrou(engine, 'raw UPDATEs, asynchronous release'),
        },
        {
          of: "rowlock's statements alone",
          measured: againstVerrou(engine, "rowlock's statements alone"),
        },
      ],
    },
    {
      figure: `hand-off p50, 1 waiter, 1 and 4 processes, ${engine}`,
      target: '<= 1.2 x the raw hand-over',
      limit: 1.2,
      unit: 'x',
      measured: (figures) =>
        figures.ratios('hand-off', engine, ['rowlock', 'raw hand-over'], 'p50 ms', isOneOf(...oneWaiter)),
    },
    {
      figure: `hand-off p50, 1 waiter, 1 and 4 processes, ${engine}`,
      target: '<= 1.5 ms',
      limit: 1.5,
      unit: 'ms',
      measured: (figures) => figures.values('hand-off', engine, 'rowlock', 'p50 ms', isOneOf(...oneWaiter)),
      floors: [
        {
          of: 'the raw hand-over',
          measured: (figures) => figures.values('hand-off', engine, 'raw hand-over', 'p50 ms', isOneOf(...oneWaiter)),
        },
      ],
    },
    {
      figure: `hand-off p50, 10 to 1000 waiters, 4 processes, ${engine}`,
      target: '<= 1.5 ms',
      limit: 1.5,
      unit: 'ms',
      measured: (figures) => figures.values('hand-off', engine, 'rowlock', 'p50 ms', isOneOf(...manyWaiters)),
      floors: [
        {
          of: 'pg_advisory_lock, up to 100 waiters',
          measured: (figures) =>
            figures.values('hand-off', engine, 'pg_advisory_lock', 'p50 ms', isOneOf(...manyWaiters)),
        },
      ],
    },
    {
      figure: `statements per grant, 1 to 1000 waiters, 4 processes, ${engine}`,
      target: '1',
      limit: 1,
      unit: '',
      measured: (figures) => figures.values('hand-off', engine, 'rowlock', 'statements per grant', isFourProcesses),
    },
    {
      figure: `drain of 1000 waiters, 4 processes, ${engine}`,
      target: '<= 2 s',
      limit: 2000,
      unit: 'ms',
      measured: (figures) =>
        figures.values('hand-off', engine, 'rowlock', 'drain ms', (setting) => setting === last(inFourProcesses)[0]),
    },
  ]),
  ...MYSQL.flatMap((engine): Target[] => [
    {
      figure: `pair through Kysely, one caller, ${engine}`,
      target: '<= 1.0 x verrou through the same',
      limit: 1,
      unit: 'x',
      measured: pairAgainst(engine, 'verrou (Kysely)', 'rowlock (Kysely)'),
      floors: [
        {
          of: 'the raw UPDATEs through the same',
          measured: pairAgainst(engine, 'verrou (Kysely)', 'raw UPDATEs (Kysely)'),
        },
      ],
    },
    {
      figure: `pair through mysql2 and through Kysely, one caller, ${engine}`,
      target: '<= 1.25 x two raw UPDATEs through mysql2',
      limit: 1.25,
      unit: 'x',
      measured: pairAgainst(engine, 'raw UPDATEs', 'rowlock', 'rowlock (Kysely)'),
      floors: [
        {
          of: 'the raw UPDATEs through Kysely',
          measured: pairAgainst(engine, 'raw UPDATEs', 'raw UPDATEs (Kysely)'),
        },
      ],
    },
  ]),
  {
    figure: 'pair through Kysely, one caller, sqlite',
    target: '<= 1.3 x two raw UPDATEs through the same',
    limit: 1.3,
    unit: 'x',
    measured: pairAgainst('sqlite', 'raw UPDATEs (Kysely)', 'rowlock (Kysely)'),
  },
  ...MYSQL.map(
    (engine): Target => ({
      figure: `hand-off p50, ${engine}`,
      target: '<= 8 ms',
      limit: 8,
      unit: 'ms',
      measured: (figures) => figures.values('hand-off', engine, 'rowlock', 'p50 ms'),
    }),
  ),
  {
    figure: 'hand-off p50, sqlite',
    target: '<= 2 ms',
    limit: 2,
    unit: 'ms',
    measured: (figures) => figures.values('hand-off', 'sqlite', 'rowlock', 'p50 ms'),
    floors: [
      {
        of: 'the raw hand-over, 1 waiter',
        measured: (figures) => figures.values('hand-off', 'sqlite', 'raw hand-over', 'p50 ms'),
      },
    ],
  },
  ...(['postgres18', ...MYSQL] as const).flatMap((engine) =>
    idleSettings.map((setting): Target => {
      const limit = engine === 'postgres18' ? 2 : 120
      return {
        figure: `statements per s from 1000 waiters of one process, ${setting}, ${engine}`,
        target: `<= ${limit}`,
        limit,
        unit: 'per s',
        measured: (figures) =>
          figures.values('idle-waiters', engine, 'rowlock', 'statements per s', (full) => full.endsWith(setting)),
      }
    }),
  ),
  {
    figure: 'distinct names, 256 callers, 10 connections, postgres18',
    target: '>= 50,000 cycles/s',
    limit: 50_000,
    isAtLeast: true,
    unit: 'per s',
    measured: (figures) => figures.values('cycles', 'postgres18', 'rowlock', 'cycles per s', is256Callers),
    floors: [
      {
        of: 'raw UPDATEs, in batches',
        measured: (figures) =>
          figures.values('cycles', 'postgres18', 'raw UPDATEs, in batches', 'cycles per s', is256Callers),
      },
    ],
  },
  ...['redlock', 'redlock, auto-pipelined'].map(
    (peer): Target => ({
      figure: `the same against ${peer}`,
      target: 'ahead of it',
      limit: 1,
      isAtLeast: true,
      unit: 'x',
      measured: (figures) => {
        const [ours] = figures.values('cycles', 'postgres18', 'rowlock', 'cycles per s', is256Callers)
        const [theirs] = figures.values('cycles', 'postgres18', peer, 'cycles per s', is256Callers)
        return ours === undefined || theirs === undefined ? [] : [ours / theirs]
      },
    }),
  ),
  {
    figure: 'the same through Kysely',
    target: '>= 0.8 x through pg',
    limit: 0.8,
    isAtLeast: true,
    unit: 'x',
    measured: (figures) =>
      figures.ratios('cycles', 'postgres18', ['rowlock (Kysely)', 'rowlock'], 'cycles per s', is256Callers),
  },
  ...(['postgres18', ...MYSQL] as const).map(
    (engine): Target => ({
      figure: `renewing 10,000 leases, ${engine}`,
      target: '<= 20 statements per interval',
      limit: 20,
      unit: 'statements',
      measured: (figures) => figures.values('renewal', engine, 'rowlock', 'statements per interval'),
    }),
  ),
  ...['lease.guard', 'lease.guarded'].map(
    (form): Target => ({
      figure: `${form} inside a transaction, postgres18`,
      target: '<= 1.1 x the transaction without it',
      limit: 1.1,
      unit: 'x',
      measured: (figures) => figures.ratios('guard', 'postgres18', [form, UNGUARDED], 'p50 ms'),
      floors: [
        {
          of: 'pg_advisory_xact_lock',
          measured: (figures) => figures.ratios('guard', 'postgres18', ['pg_advisory_xact_lock', UNGUARDED], 'p50 ms'),
        },
      ],
    }),
  ),
  {
    figure: 'a transaction with lease.guard, postgres18',
    target: `<= 1.15 x the one with \`${ROUND_TRIP}\``,
    limit: 1.15,
    unit: 'x',
    measured: (figures) => figures.ratios('guard', 'postgres18', ['lease.guard', ROUND_TRIP], 'p50 ms'),
  },
  ...ENGINES_OF_ONCE.flatMap((engine): Target[] => [
    {
      figure: `locks.once of what is done, ${engine}`,
      target: '<= 1.2 x a select by primary key',
      limit: 1.2,
      unit: 'x',
      measured: (figures) =>
        figures.ratios('once', engine, ['locks.once', BY_KEY], 'p50 ms', (setting) => setting === ONCE_SETTINGS.done),
    },
    {
      figure: `locks.once of a new key, ${engine}`,
      target: '<= 2.5 x acquire and release of a new name',
      limit: 2.5,
      unit: 'x',
      measured: (figures) =>
        figures.ratios('once', engine, ['locks.once', PAIR], 'p50 ms', (setting) => setting === ONCE_SETTINGS.fresh),
    },
    {
      figure: `within(tx).once of a new key, ${engine}`,
      target: '<= 1.3 x an insert by hand',
      limit: 1.3,
      unit: 'x',
      measured: (figures) => figures.ratios('once', engine, ['within(tx).once', BY_HAND], 'p50 ms'),
    },
  ]),
  {
    figure: 'round trips that lease.guarded adds, postgres18',
    target: '0',
    limit: 0,
    unit: '',
    measured: (figures) => {
      const [guarded] = figures.values('guard', 'postgres18', 'lease.guarded', 'round trips')
      const [plain] = figures.values('guard', 'postgres18', UNGUARDED, 'round trips')
      return guarded === undefined || plain === undefined ? [] : [guarded - plain]
    },
  },
  ...POSTGRES.flatMap((engine): Target[] => [
    ...throughOf(engine).flatMap((through): Target[] => [
      {
        figure: `200 transactions, one lock, pool of 10, READ COMMITTED, ${through}, ${engine}`,
        target: `<= 1.5 x ${ADVISORY}`,
        limit: 1.5,
        unit: 'x',
        measured: asLongAs(engine, ADVISORY, 'ms', manySetting(200, 'read committed', through)),
      },
      {
        figure: `within(tx).acquire of a free lock, READ COMMITTED, ${through}, ${engine}`,
        target: `<= 1.2 x ${ADVISORY}`,
        limit: 1.2,
        unit: 'x',
        measured: asLongAs(engine, ADVISORY, 'p50 ms', freeSetting('read committed', through)),
        floors: [
          {
            of: ROW_WRITTEN,
            measured: (figures) =>
              figures.ratios(
                'transactions',
                engine,
                [ROW_WRITTEN, ADVISORY],
                'p50 ms',
                isOneOf(freeSetting('read committed', through)),
              ),
          },
          {
            of: ISOLATION_KNOWN,
            measured: (figures) =>
              figures.ratios(
                'transactions',
                engine,
                [ISOLATION_KNOWN, ADVISORY],
                'p50 ms',
                isOneOf(freeSetting('read committed', through)),
              ),
          },
        ],
      },
    ]),
    ...(['repeatable read', 'serializable'] as const).flatMap((level): Target[] => [
      {
        figure: `64 transactions, one lock, pool of 10, ${level.toUpperCase()}, ${engine}`,
        target: `<= 6 x ${ADVISORY_COMMITTED}`,
        limit: 6,
        unit: 'x',
        measured: asLongAs(engine, ADVISORY_COMMITTED, 'ms', manySetting(64, level, 'pg')),
      },
      {
        figure: `the same: how many are aborted, ${level.toUpperCase()}, ${engine}`,
        target: '<= 5 %',
        limit: 5,
        unit: '%',
        measured: (figures) =>
          figures.values('transactions', engine, 'rowlock', 'aborted %', isOneOf(manySetting(64, level, 'pg'))),
      },
    ]),
    statementsOfWaiting(engine, 10, waitingSetting('read committed', 'pg')),
    statementsOfWaiting(engine, 200, waitingSetting('repeatable read', 'pg'), waitingSetting('serializable', 'pg')),
  ]),
  ...MYSQL.flatMap((engine): Target[] => {
    const levels = ['read committed', 'repeatable read'] as const
    return [
      {
        figure: `200 transactions, one lock, pool of 10, both levels, ${engine}`,
        target: `<= 1.5 x ${FOR_UPDATE}`,
        limit: 1.5,
        unit: 'x',
        measured: asLongAs(engine, FOR_UPDATE, 'ms', ...levels.map((level) => manySetting(200, level, 'mysql2'))),
      },
      {
        figure: `within(tx).acquire of a free lock, both levels, ${engine}`,
        target: `<= 1.2 x ${FOR_UPDATE}`,
        limit: 1.2,
        unit: 'x',
        measured: asLongAs(engine, FOR_UPDATE, 'p50 ms', ...levels.map((level) => freeSetting(level, 'mysql2'))),
      },
      statementsOfWaiting(engine, 200, ...levels.map((level) => waitingSetting(level, 'mysql2'))),
    ]
  }),
  {
    figure: 'pair with 2 ms of delay each way, postgres18',
    target: '<= 1.05 x two raw round trips',
    limit: 1.05,
    unit: 'x',
    measured: (figures) => figures.ratios('delay', 'postgres18', ['rowlock', 'two round trips'], 'p50 ms'),
    floors: [
      {
        of: 'raw UPDATEs',
        measured: (figures) => figures.ratios('delay', 'postgres18', ['raw UPDATEs', 'two round trips'], 'p50 ms'),
      },
    ],
  },
  {
    figure: 'pair among the most lock rows, postgres18',
    target: '<= 1.1 x the cost at 1000',
    limit: 1.1,
    unit: 'x',
    measured: (figures) => figures.growth('rows', 'postgres18', 'rowlock', 'p50 ms'),
    floors: [
      {
        of: 'raw UPDATEs',
        measured: (figures) => figures.growth('rows', 'postgres18', 'raw UPDATEs', 'p50 ms'),
      },
    ],
  },
  {
    figure: 'takeover after kill -9, p99, postgres18',
    target: '<= 250 ms',
    limit: 250,
    unit: 'ms',
    measured: (figures) => figures.values('takeover', 'postgres18', "rowlock, takeover: 'session'", 'p99 ms'),
  },
]

/** Floats that mean 1 statement are not always 1. */
const ROUNDING = 0.005

/** On all targets for which there are figures. */
export function verdicts(all: readonly Figure[]): Verdict[] {
  const figures = new Figures(all)
  return TARGETS.flatMap(({ figure, target, limit, isAtLeast = false, unit, measured, floors = [] }) => {
    const values = measured(figures)
    if (values.length === 0) return []
    // The one that is furthest from the target.
    const worst = isAtLeast ? Math.min(...values) : Math.max(...values)
    const met = isAtLeast ? worst >= limit : worst <= limit + ROUNDING
    return [
      {
        figure,
        target,
        measured: `${rangeOf(values)} ${unit}`.trim(),
        ratio: worst / limit,
        met,
        floor: floors
          .map(({ of, measured }) => ({ of, least: measured(figures) }))
          .filter(({ least }) => least.length > 0)
          .map(({ of, least }) => `${of}: ${rangeOf(least)} ${unit}`)
          .join('; '),
      },
    ]
  })
}

/** What somebody has to read who is to carry this on: known without measuring. */
export function sizeOfSource(): Verdict {
  const limit = 8400
  const folder = fileURLToPath(new URL('../src', import.meta.url))
  const lines = readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && !file.startsWith('cli'))
    .map((file) => readFileSync(join(folder, file), 'utf8').split('\n').length - 1)
    .reduce((sum, count) => sum + count, 0)
  return {
    figure: 'lines of src/ without src/cli',
    target: `<= ${limit.toLocaleString('en')}`,
    measured: lines.toLocaleString('en'),
    ratio: lines / limit,
    met: lines <= limit,
    floor: '',
  }
}

function rangeOf(values: readonly number[]): string {
  const [least, most] = [brief(Math.min(...values)), brief(Math.max(...values))]
  return least === most ? least : `${least} to ${most}`
}
