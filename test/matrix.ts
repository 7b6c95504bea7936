/**
 * Writes the matrix of ORM x engine x feature in docs/adapters.md from a run of the suite that every ORM has to pass: a
 * feature is named only if all its tests passed. `npm run matrix`.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

interface Report {
  testResults: { assertionResults: { ancestorTitles: string[]; status: string }[] }[]
}

/** Groups of tests in test/orms/suite.ts, by the name that the matrix gives them. */
const FEATURES = new Map([
  ['leases', 'leases'],
  ['guards', 'guards'],
  ['within a transaction', 'within'],
])
/** Others did not run: what an engine cannot have is left out. */
const RAN = ['passed', 'failed']

const DOCUMENT = 'docs/adapters.md'
const START = '<!-- matrix: npm run matrix -->'
const END = '<!-- end of matrix -->'

const folder = mkdtempSync(join(tmpdir(), 'rowlock-matrix-'))
try {
  const outputFile = join(folder, 'report.json')
  const features = ` on .* (${[...FEATURES.keys()].join('|')}) `
  const reporter = ['--reporter=json', `--outputFile=${outputFile}`]
  spawnSync('npx', ['vitest', 'run', 'test/orms', '-t', features, ...reporter], { stdio: 'inherit' })
  const table = toTable(JSON.parse(readFileSync(outputFile, 'utf8')) as Report)
  const [before, rest] = readFileSync(DOCUMENT, 'utf8').split(START)
  const after = rest?.split(END)[1]
  if (before === undefined || after === undefined) throw new Error(`${DOCUMENT} has no place for the matrix: ${START}`)
  writeFileSync(DOCUMENT, `${before}${START}\n${table}\n${END}${after}`)
} finally {
  rmSync(folder, { recursive: true })
}

function toTable({ testResults }: Report): string {
  // orm -> engine -> feature -> whether all of its tests passed
  const orms = new Map<string, Map<string, Map<string, boolean>>>()
  for (const { ancestorTitles, status } of testResults.flatMap(({ assertionResults }) => assertionResults)) {
    const [subject = '', group = ''] = ancestorTitles.filter((title) => title !== '')
    const [orm, engine] = subject.split(' on ')
    const feature = FEATURES.get(group)
    if (orm === undefined || engine === undefined || feature === undefined || !RAN.includes(status)) continue
    const engines = orms.get(orm) ?? new Map<string, Map<string, boolean>>()
    const features = engines.get(engine) ?? new Map<string, boolean>()
    features.set(feature, (features.get(feature) ?? true) && status === 'passed')
    orms.set(orm, engines.set(engine, features))
  }
  const columns = [...new Set([...orms.values()].flatMap((engines) => [...engines.keys()]))].sort()
  const cell = (features: Map<string, boolean> | undefined) =>
    [...(features ?? [])].flatMap(([feature, passed]) => (passed ? [feature] : [])).join(', ')
  const lines = [...orms].map(
    ([orm, engines]) => `| ${orm} | ${columns.map((engine) => cell(engines.get(engine))).join(' | ')} |`,
  )
  return [`| | ${columns.join(' | ')} |`, `|---${'|---'.repeat(columns.length)}|`, ...lines].join('\n')
}
