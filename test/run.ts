import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { prepareNode24, prepareServer, type ServerName, serverNames, wantedServers } from './servers/index.ts'

type Count = { passed: number; failed: number }

/** What is read of a report in Vitest's JSON format, which is Jest's. */
type Report = {
  numPassedTests: number
  testResults: {
    status: string
    assertionResults: { status: string; fullName: string; failureMessages: string[] }[]
  }[]
}

/** What `--engine` takes: the servers that are started, and how tests name the engine. */
const ENGINES: Readonly<Record<string, { readonly servers: readonly ServerName[]; readonly tests: string }>> = {
  postgres: { servers: ['postgres18'], tests: 'PostgreSQL|postgres|pglite|PGlite' },
  mysql: { servers: ['mysql'], tests: 'MySQL|mysql' },
  mariadb: { servers: ['mariadb'], tests: 'MariaDB|mariadb' },
  sqlite: { servers: [], tests: 'sqlite|SQLite' },
  memory: { servers: [], tests: 'memory' },
}

const root = fileURLToPath(new URL('..', import.meta.url))
const vitest = join(root, 'node_modules/vitest/vitest.mjs')
const vitestArguments = ofOneEngine(process.argv.slice(2))

let running: ChildProcess | null = null
let isInterrupted = false

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => interrupt(signal))

const total: Count = { passed: 0, failed: 0 }
try {
  for (const node of await prepareNodes()) {
    if (isInterrupted) break
    const { passed, failed } = await runVitest(node)
    total.passed += passed
    total.failed += failed
  }
} catch (error) {
  console.error(error instanceof Error ? error.message : error)
  total.failed += 1
}
console.log(`${total.passed} passed, ${total.failed} failed`)
process.exitCode = total.failed > 0 || total.passed === 0 || isInterrupted ? 1 : 0

/** `--engine sqlite` and the like: the tests that have it in their names, and no other server. The rest is for Vitest. */
function ofOneEngine(given: readonly string[]): string[] {
  const at = given.indexOf('--engine')
  if (at === -1) return [...given]
  const name = given[at + 1] ?? ''
  const engine = ENGINES[name]
  if (engine === undefined) {
    console.error(`--engine must be one of ${Object.keys(ENGINES).join(', ')}, not ${name}`)
    process.exit(1)
  }
  process.env.ROWLOCK_TEST_EXCLUDE = serverNames.filter((each) => !engine.servers.includes(each)).join(',')
  return [...given.slice(0, at), ...given.slice(at + 2), '--testNamePattern', engine.tests]
}

/** The Node binaries to run tests with, once everything is there that the tests need. */
async function prepareNodes(): Promise<string[]> {
  if (Number.parseInt(process.versions.node, 10) >= 24) {
    throw new Error(
      'Run this with Node 20 or 22: under Node 24 only the tests that need it run, and they run from here too.',
    )
  }
  const files = await readdir(join(root, 'test'), { recursive: true })
  const needsNode24 = files.some((file) => file.endsWith('.node24.test.ts'))
  const nodes = [process.execPath]
  await allOf([
    needsNode24 && prepareNode24().then((node24) => nodes.push(node24)),
    ...wantedServers().map(prepareServer),
  ])
  return nodes
}

/** Like Promise.all, but it waits for all, and tells of all that failed. */
async function allOf(promises: unknown[]): Promise<void> {
  const outcomes = await Promise.allSettled(promises)
  const failures = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason.message] : []))
  if (failures.length > 0) throw new Error(failures.join('\n'))
}

async function runVitest(node: string): Promise<Count> {
  const directory = await mkdtemp(join(tmpdir(), 'rowlock-report-'))
  const reportFile = join(directory, 'report.json')
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${reportFile}`]
  try {
    running = spawn(node, [vitest, 'run', ...reporters, '--passWithNoTests', ...vitestArguments], {
      cwd: root,
      stdio: ['ignore', 'inherit', 'inherit'],
    })
    const [exitCode] = await once(running, 'exit')
    const report = await readReport(reportFile)
    tellRepeated(report)
    const { passed, failed } = countTests(report)
    // Such as an error outside of all tests, which the report does not have.
    const hasFailedOtherwise = exitCode !== 0 && failed === 0
    return { passed, failed: hasFailedOtherwise ? 1 : failed }
  } finally {
    running = null
    await rm(directory, { recursive: true, force: true })
  }
}

async function readReport(file: string): Promise<Report> {
  const text = await readFile(file, 'utf8').catch(() => null)
  return text === null ? { numPassedTests: 0, testResults: [] } : JSON.parse(text)
}

/** Why tests failed that passed when they were repeated: Vitest itself does not say. */
function tellRepeated({ testResults }: Report): void {
  for (const { status, fullName, failureMessages } of testResults.flatMap(({ assertionResults }) => assertionResults)) {
    if (status === 'passed' && failureMessages.length > 0) {
      console.log(`\nfailed at first: ${fullName}\n${failureMessages.join('\n')}`)
    }
  }
}

function countTests({ numPassedTests, testResults }: Report): Count {
  const failedPerFile = testResults.map(({ status, assertionResults }) => {
    const failedTests = assertionResults.filter((test) => test.status === 'failed').length
    return failedTests === 0 && status === 'failed' ? 1 : failedTests
  })
  return { passed: numPassedTests, failed: failedPerFile.reduce((sum, failed) => sum + failed, 0) }
}

function interrupt(signal: NodeJS.Signals): void {
  isInterrupted = true
  if (running === null) process.exit(130)
  running.kill(signal)
}
